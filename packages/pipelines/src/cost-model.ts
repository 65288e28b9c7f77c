/**
 * What sampling and finetuning cost, computed from the architectures. Nothing here was measured: the formulas count
 * multiplications of the denoiser and bytes that must be held, and a card is assumed to reach a share of its peak.
 */

/** A transformer as the formulas see it. */
export interface DenoiserShape {
  readonly name: string;
  /** Width of the residual stream. */
  readonly width: number;
  readonly layers: number;
  /** Width of the feed-forward layer. */
  readonly feedForward: number;
  /** Text: `cross` has an attention of its own for it, `joint` puts it into the sequence. */
  readonly text: { readonly kind: 'cross' | 'joint'; readonly tokens: number; readonly width: number };
  /** Parameters of modulation and embeddings, besides the layers' matrices. */
  readonly otherParameters: number;
  /** Of the text encoder and of the VAE's decoder. */
  readonly textEncoderParameters: number;
  readonly decoderParameters: number;
}

/** What is sampled. */
export interface VideoShape {
  readonly width: number;
  readonly height: number;
  readonly frames: number;
}

const square = (x: number): number => x * x;

/** Umt5-XXL and T5-XXL, encoders only. */
const umt5Parameters = 5.68e9;
const t5Parameters = 4.76e9;

const wanOther = (width: number): number =>
  // Text, time and its projection to six modulations.
  4096 * width + square(width) + 256 * width + square(width) + 6 * square(width);

const cogOther = (width: number, layers: number): number =>
  // Two modulated norms in each block, six values a channel, from a time embedding of 512.
  layers * 2 * 512 * 6 * width + 4096 * width + 2 * 512 * width;

export const wan13: DenoiserShape = {
  name: 'Wan 2.1 1.3B',
  width: 1536,
  layers: 30,
  feedForward: 8960,
  text: { kind: 'cross', tokens: 512, width: 1536 },
  otherParameters: wanOther(1536),
  textEncoderParameters: umt5Parameters,
  decoderParameters: 73e6,
};
export const wan14: DenoiserShape = {
  ...wan13,
  name: 'Wan 2.1 14B',
  width: 5120,
  layers: 40,
  feedForward: 13_824,
  text: { kind: 'cross', tokens: 512, width: 5120 },
  otherParameters: wanOther(5120),
};
export const cogVideoX2: DenoiserShape = {
  name: 'CogVideoX 2B',
  width: 1920,
  layers: 30,
  feedForward: 7680,
  text: { kind: 'joint', tokens: 226, width: 1920 },
  otherParameters: cogOther(1920, 30),
  textEncoderParameters: t5Parameters,
  decoderParameters: 123e6,
};
export const cogVideoX5: DenoiserShape = {
  ...cogVideoX2,
  name: 'CogVideoX 5B',
  width: 3072,
  layers: 42,
  feedForward: 12_288,
  text: { kind: 'joint', tokens: 226, width: 3072 },
  otherParameters: cogOther(3072, 42),
};

/** Parameters of the denoiser. */
export function parametersOf(shape: DenoiserShape): number {
  const attention = 4 * square(shape.width);
  const cross =
    shape.text.kind === 'cross' ? 2 * square(shape.width) + 2 * shape.text.width * shape.width : 0;
  return shape.layers * (attention + cross + 2 * shape.width * shape.feedForward) + shape.otherParameters;
}

/** Tokens of a clip: time is compressed by 4, each side by 8 and by patches of 2. */
export function tokensOf({ width, height, frames }: VideoShape): number {
  return (Math.floor((frames - 1) / 4) + 1) * Math.floor(height / 16) * Math.floor(width / 16);
}

/** Floating-point operations of one pass of the denoiser for one clip; a multiplication with its addition is two. */
export function passOperations(shape: DenoiserShape, video: VideoShape): number {
  const { kind, tokens: textTokens, width: textWidth } = shape.text;
  const tokens = tokensOf(video) + (kind === 'joint' ? textTokens : 0);
  const matrices = 2 * tokens * (4 * square(shape.width) + 2 * shape.width * shape.feedForward);
  const attention = 4 * square(tokens) * shape.width;
  const cross =
    kind === 'cross'
      ? 2 * tokens * 2 * square(shape.width) +
        2 * textTokens * 2 * textWidth * shape.width +
        4 * tokens * textTokens * shape.width
      : 0;
  return shape.layers * (matrices + attention + cross);
}

export interface Sampling {
  readonly steps: number;
  /** Passes of a step: 2 with guidance. */
  readonly passes: 1 | 2;
}

/** Seconds for one clip on a card; text encoding and decoding add about a tenth. */
export function clipSeconds(
  shape: DenoiserShape,
  video: VideoShape,
  { steps, passes }: Sampling,
  operationsPerSecond: number,
): number {
  return (1.1 * steps * passes * passOperations(shape, video)) / operationsPerSecond;
}

/** Bytes of one number of weights and activations: bfloat16. */
const bytes = 2;

/** Bytes to sample `batch` clips: weights of the denoiser, and what one block holds of every row at a time. */
export function samplingBytes(shape: DenoiserShape, video: VideoShape, batch: number, passes: 1 | 2): number {
  // Residual, normed input, queries, keys, values, result and one copy, besides the feed-forward layer's two sides.
  const perToken = 8 * shape.width + 2 * shape.feedForward;
  return bytes * (parametersOf(shape) + batch * passes * tokensOf(video) * perToken);
}

/** Parameters of LoRA of a rank on queries, keys, values and outputs of every attention. */
export function loraParameters(shape: DenoiserShape, rank: number): number {
  const matrices = shape.text.kind === 'cross' ? 8 : 4;
  return shape.layers * matrices * 2 * shape.width * rank;
}

/**
 * Bytes to train LoRA on micro-batches of `batch` clips with rematerialised blocks: frozen weights, adapters with
 * gradient and two moments in float32, the input of every block, and one block's activations with their gradients.
 */
export function trainingBytes(shape: DenoiserShape, video: VideoShape, batch: number, rank: number): number {
  const tokens = batch * tokensOf(video);
  const kept = shape.layers * tokens * shape.width;
  const block = 2 * tokens * (16 * shape.width + 3 * shape.feedForward);
  return bytes * (parametersOf(shape) + kept + block) + 16 * loraParameters(shape, rank);
}

/** Seconds of one clip in one training step: forward, forward again within the backward pass, and the backward pass. */
export function trainingSeconds(
  shape: DenoiserShape,
  video: VideoShape,
  operationsPerSecond: number,
): number {
  return (3 * passOperations(shape, video)) / operationsPerSecond;
}

/** A card: memory in bytes, dense bfloat16 operations a second at its peak. */
export interface Card {
  readonly name: string;
  readonly memoryBytes: number;
  readonly peak: number;
}

const gigabytes = 1e9;

/** By memory. */
export const cards: readonly Card[] = [
  { name: 'RTX 4090 24 GB', memoryBytes: 24 * gigabytes, peak: 165e12 },
  { name: 'L40S 48 GB', memoryBytes: 48 * gigabytes, peak: 362e12 },
  { name: 'A100 80 GB', memoryBytes: 80 * gigabytes, peak: 312e12 },
  { name: 'H100 80 GB', memoryBytes: 80 * gigabytes, peak: 989e12 },
  { name: 'H200 141 GB', memoryBytes: 141 * gigabytes, peak: 989e12 },
];

/** Share of its peak that a card is taken to reach. */
export const reachedShare = 0.4;
/** Share of a card's memory that may be planned with; the runtime and fragmentation take the rest. */
const usableShare = 0.85;

/** Largest batch that fits, at most 16; 0 when not even one clip does. */
export function largestBatch(card: Card, bytesOf: (batch: number) => number): number {
  let batch = 0;
  while (batch < 16 && bytesOf(batch + 1) <= usableShare * card.memoryBytes) batch += 1;
  return batch;
}

/** Text encoder and decoder; the denoiser is not loaded while they are, where a card is too small for all. */
export function companionBytes(shape: DenoiserShape): number {
  return bytes * (shape.textEncoderParameters + shape.decoderParameters);
}
