import {
  add,
  concat,
  cos,
  gather,
  layerNorm,
  linear as linearLayer,
  matMul,
  mul,
  reshape,
  silu,
  sin,
  softmax,
  split,
  swapLastAxes,
  transpose,
  type Graph,
  type Tensor,
} from '@plumb/tensor-graph';
import { tokenGrid, type VideoModelConfig } from './config.ts';

/** Channels of the frequency features of time. */
const TIME_FEATURES = 128;

/** One weight of the model: its shape, how pretraining begins it, and how it is optimised. */
export interface ParameterSpec {
  readonly name: string;
  readonly shape: readonly number[];
  /** Standard deviation of its first values, drawn from a normal distribution; 0 is all zero. */
  readonly initialStd: number;
  /** Multiplies the learning rate. */
  readonly learningRateMultiplier: number;
  /** Whether weight decay applies: to matrices, not to biases and tables. */
  readonly weightDecay: boolean;
}

/** Every weight of the model, in a fixed order. */
export function parameterSpecs(config: VideoModelConfig): ParameterSpec[] {
  const width = config.hiddenSize;
  const hidden = Math.round(width * config.mlpRatio);
  const [frames, rows, columns] = tokenGrid(config);
  const tokens = frames * rows * columns;
  const patch = patchSize(config);
  const { vocabulary, maxWords, wordWidth } = config.caption;
  const specs: ParameterSpec[] = [];
  const table = (name: string, shape: number[], initialStd: number, learningRateMultiplier = 1): void => {
    specs.push({ name, shape, initialStd, learningRateMultiplier, weightDecay: false });
  };
  const linear = (name: string, inputs: number, outputs: number, gain = 1): void => {
    specs.push({
      name: `${name}.weight`,
      shape: [inputs, outputs],
      initialStd: gain / Math.sqrt(inputs),
      learningRateMultiplier: 1,
      weightDecay: true,
    });
    table(`${name}.bias`, [outputs], 0);
  };
  linear('patch', patch, width);
  table('position', [tokens, width], 0.02);
  linear('time.0', TIME_FEATURES, width);
  linear('time.1', width, width);
  table('caption.words', [vocabulary.length + 1, wordWidth], 0.5);
  linear('caption.0', maxWords * wordWidth, 2 * width);
  linear('caption.1', 2 * width, width);
  for (let block = 0; block < config.depth; block++) {
    const name = `blocks.${block}`;
    linear(`${name}.modulation`, width, 6 * width, 0);
    linear(`${name}.attention.qkv`, width, 3 * width);
    linear(`${name}.attention.out`, width, width);
    // Gradients of the table are sums over few pairs of tokens and small; it learns too slowly otherwise.
    table(
      `${name}.attention.relative`,
      [(2 * frames - 1) * (2 * rows - 1) * (2 * columns - 1), config.heads],
      0,
      15,
    );
    linear(`${name}.mlp.0`, width, hidden);
    linear(`${name}.mlp.1`, hidden, width);
  }
  linear('head.modulation', width, 2 * width, 0);
  linear('head.out', width, patch, 0);
  return specs;
}

/** Number of weights. */
export function parameterCount(config: VideoModelConfig): number {
  return parameterSpecs(config).reduce((sum, spec) => sum + spec.shape.reduce((a, b) => a * b, 1), 0);
}

/** What the denoiser is conditioned on. */
export interface DenoiserInput {
  /** x_t, [batch, 3, frames, height, width]. */
  readonly noised: Tensor;
  /** Diffusion time in [0, 1], [batch, 1]. */
  readonly time: Tensor;
  /** Factors of `preconditioning`, each [batch, 1, 1, 1, 1]. */
  readonly skip: Tensor;
  readonly in: Tensor;
  readonly out: Tensor;
  /** Caption tokens, int32 [batch, maxWords]. */
  readonly tokens: Tensor;
}

/**
 * The prediction of a video diffusion transformer with adaptive layer norm (DiT, Peebles and Xie, arXiv 2212.09748)
 * over patches of time, height and width, with a learned relative-position bias in every head.
 * @param parameter gives the weight of a name of `parameterSpecs`
 * @param options.rematerialise whether the gradient computes every block a second time, in place of keeping what it made
 * @returns the model's prediction in the config's parameterisation, shaped as `noised`
 */
export function denoise(
  config: VideoModelConfig,
  parameter: (name: string) => Tensor,
  input: DenoiserInput,
  options: { readonly rematerialise?: boolean } = {},
): Tensor {
  const graph = input.noised.graph;
  const width = config.hiddenSize;
  const batch = input.noised.shape[0] ?? 0;
  const [frames, rows, columns] = tokenGrid(config);
  const tokens = frames * rows * columns;
  const linear = (x: Tensor, name: string): Tensor =>
    linearLayer(x, parameter(`${name}.weight`), parameter(`${name}.bias`));

  const time = linear(silu(linear(timeFeatures(graph, input.time), 'time.0')), 'time.1');
  const words = gather(parameter('caption.words'), input.tokens, 0);
  const caption = linear(
    silu(linear(reshape(words, [batch, config.caption.maxWords * config.caption.wordWidth]), 'caption.0')),
    'caption.1',
  );
  const condition = silu(add(time, caption));

  const patches = patchify(config, mul(input.in, input.noised));
  const position = add(parameter('position'), graph.constant(coordinateFeatures(config), [tokens, width]));
  let x = add(linear(patches, 'patch'), position);

  const relativeIndex = graph.constant(relativePositionIndex(config), [tokens * tokens]);
  const transform = (from: Tensor, name: string): Tensor => {
    const [shift1, scale1, gate1, shift2, scale2, gate2] = modulation(
      linear(condition, `${name}.modulation`),
      6,
      width,
    ) as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor];
    const attended = attention(
      config,
      parameter,
      `${name}.attention`,
      relativeIndex,
      modulate(from, shift1, scale1),
      linear,
    );
    const mixed = add(from, mul(gate1, attended));
    const hidden = silu(linear(modulate(mixed, shift2, scale2), `${name}.mlp.0`));
    return add(mixed, mul(gate2, linear(hidden, `${name}.mlp.1`)));
  };
  for (let block = 0; block < config.depth; block++) {
    const from = x;
    const build = (): Tensor => graph.scope(`blocks.${block}`, () => transform(from, `blocks.${block}`));
    x = options.rematerialise === true ? graph.checkpoint(build) : build();
  }
  const [shift, scale] = modulation(linear(condition, 'head.modulation'), 2, width) as [Tensor, Tensor];
  const patchesOut = linear(modulate(x, shift, scale), 'head.out');
  return add(mul(input.skip, input.noised), mul(input.out, unpatchify(config, patchesOut, batch)));
}

function patchSize(config: VideoModelConfig): number {
  return 3 * config.patch.frames * config.patch.height * config.patch.width;
}

/** [batch, width * parts] to `parts` tensors of [batch, 1, width]. */
function modulation(x: Tensor, parts: number, width: number): Tensor[] {
  const batch = x.shape[0] ?? 0;
  return split(
    reshape(x, [batch, 1, parts * width]),
    2,
    Array.from({ length: parts }, () => width),
  );
}

function modulate(x: Tensor, shift: Tensor, scale: Tensor): Tensor {
  return add(mul(layerNorm(x, undefined, undefined, { epsilon: 1e-6 }), add(scale, 1)), shift);
}

function attention(
  config: VideoModelConfig,
  parameter: (name: string) => Tensor,
  name: string,
  relativeIndex: Tensor,
  x: Tensor,
  linear: (x: Tensor, name: string) => Tensor,
): Tensor {
  const [batch, tokens, width] = x.shape as [number, number, number];
  const { heads } = config;
  const headWidth = width / heads;
  const projected = linear(x, `${name}.qkv`);
  // One transposition for the three: [3, batch, heads, tokens, headWidth].
  const parts = split(
    transpose(reshape(projected, [batch, tokens, 3, heads, headWidth]), [2, 0, 3, 1, 4]),
    0,
    [1, 1, 1],
  ).map((part) => reshape(part, [batch, heads, tokens, headWidth])) as [Tensor, Tensor, Tensor];
  const [q, k, v] = parts;
  const table = parameter(`${name}.relative`);
  const bias = reshape(transpose(gather(table, relativeIndex, 0), [1, 0]), [1, heads, tokens, tokens]);
  const weights = softmax(add(matMul(mul(q, 1 / Math.sqrt(headWidth)), swapLastAxes(k)), bias), 3);
  const mixed = reshape(transpose(matMul(weights, v), [0, 2, 1, 3]), [batch, tokens, width]);
  return linear(mixed, `${name}.out`);
}

/** [batch, 3, frames, height, width] to [batch, tokens, patch]. */
function patchify(config: VideoModelConfig, x: Tensor): Tensor {
  const batch = x.shape[0] ?? 0;
  const [frames, rows, columns] = tokenGrid(config);
  const { patch } = config;
  const cut = reshape(x, [batch, 3, frames, patch.frames, rows, patch.height, columns, patch.width]);
  return reshape(transpose(cut, [0, 2, 4, 6, 1, 3, 5, 7]), [
    batch,
    frames * rows * columns,
    patchSize(config),
  ]);
}

/** The inverse of `patchify`. */
function unpatchify(config: VideoModelConfig, x: Tensor, batch: number): Tensor {
  const [frames, rows, columns] = tokenGrid(config);
  const { patch, video } = config;
  const cut = reshape(x, [batch, frames, rows, columns, 3, patch.frames, patch.height, patch.width]);
  return reshape(transpose(cut, [0, 4, 1, 5, 2, 6, 3, 7]), [
    batch,
    3,
    video.frames,
    video.height,
    video.width,
  ]);
}

/** Sines and cosines of time at geometric frequencies, [batch, TIME_FEATURES]. */
function timeFeatures(graph: Graph, time: Tensor): Tensor {
  const half = TIME_FEATURES / 2;
  const frequencies = Float32Array.from({ length: half }, (_, i) => 1000 * 10_000 ** (-i / half));
  const angles = mul(time, graph.constant(frequencies, [1, half]));
  return concat([sin(angles), cos(angles)], 1);
}

/** Sines and cosines of each token's place in time, height and width, [tokens, hiddenSize]; channels left over are 0. */
function coordinateFeatures(config: VideoModelConfig): Float32Array {
  const [frames, rows, columns] = tokenGrid(config);
  const width = config.hiddenSize;
  const perAxis = Math.floor(width / 6);
  const features = new Float32Array(frames * rows * columns * width);
  let token = 0;
  for (let t = 0; t < frames; t++) {
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        [t / frames, y / rows, x / columns].forEach((place, axis) => {
          for (let i = 0; i < perAxis; i++) {
            // From a quarter turn over the clip up to half a turn a token, where sign changes tell neighbours apart.
            const extent = [frames, rows, columns][axis] ?? 1;
            const turns = 0.25 * (2 * extent) ** (i / Math.max(perAxis - 1, 1));
            const at = token * width + axis * 2 * perAxis + 2 * i;
            features[at] = Math.sin(2 * Math.PI * turns * place);
            features[at + 1] = Math.cos(2 * Math.PI * turns * place);
          }
        });
        token++;
      }
    }
  }
  return features;
}

/** For each pair of tokens the row of the relative-position table, [tokens * tokens]. */
function relativePositionIndex(config: VideoModelConfig): Int32Array {
  const [frames, rows, columns] = tokenGrid(config);
  const tokens = frames * rows * columns;
  const place = (token: number): [number, number, number] => [
    Math.floor(token / (rows * columns)),
    Math.floor(token / columns) % rows,
    token % columns,
  ];
  const index = new Int32Array(tokens * tokens);
  for (let a = 0; a < tokens; a++) {
    const [ta, ya, xa] = place(a);
    for (let b = 0; b < tokens; b++) {
      const [tb, yb, xb] = place(b);
      index[a * tokens + b] =
        ((ta - tb + frames - 1) * (2 * rows - 1) + (ya - yb + rows - 1)) * (2 * columns - 1) +
        (xa - xb + columns - 1);
    }
  }
  return index;
}
