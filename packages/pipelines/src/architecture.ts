import type { TypedTensor } from '@plumb/tensor-graph/engine';
import type { PipelineSettings } from './pipeline-settings.ts';

/** Reads fields of a component's config.json; errors name the file and the field. */
export interface ConfigReader {
  number(component: string, field: string): number;
  /** undefined where the field is missing or null. */
  optionalNumber(component: string, field: string): number | undefined;
  numbers(component: string, field: string): number[];
  flag(component: string, field: string): boolean;
  flags(component: string, field: string): boolean[];
  /** An error about a field: `description` completes "<field> ...". */
  refuse(component: string, field: string, description: string): Error;
}

/** Latents as a decoder takes them: [channels, frames, height, width]. */
export interface DecoderInput {
  readonly shape: readonly [channels: number, frames: number, height: number, width: number];
  readonly data: Float32Array;
}

/** How one pipeline of an architecture is sampled. Everything follows from the folder's configuration. */
export interface SamplingPlan {
  /** Shape of one clip's latents as the denoiser takes them, without the batch. */
  readonly latents: readonly number[];
  /** Shape of the latents that one clip's decoder call takes. */
  readonly decoderShape: DecoderInput['shape'];
  /** Pixels of a latent's side. */
  readonly spatialScale: number;
  /** Tokens that dynamic shifting counts. */
  readonly sequenceLength: number;
  /** Noise levels in place of the scheduler's own spacing. */
  readonly sigmas?: (steps: number) => number[];
  readonly text: {
    /** The text encoder is given the attention mask. */
    readonly masked: boolean;
    /** Embeddings of padding are replaced by zeros. */
    readonly zeroPadding: boolean;
    /** Input of the denoiser that takes the attention mask. */
    readonly maskInput?: string;
  };
  /** Inputs of the denoiser that no step changes, for a number of rows. */
  readonly constants: (rows: number) => Readonly<Record<string, TypedTensor>>;
  /** Latents of one clip as its decoder takes them. */
  readonly toDecoder: (latents: Float32Array) => DecoderInput;
}

/** A kind of pipeline: one class of diffusers. */
export interface Architecture {
  /** `_class_name` of model_index.json. */
  readonly pipeline: string;
  /** Components with a graph: folder names. */
  readonly textEncoder: string;
  readonly denoiser: string;
  readonly decoder: string;
  /**
   * @throws PlumbError INVALID_ARGUMENT naming file and field of what is missing or not supported
   */
  plan(config: ConfigReader, settings: PipelineSettings): SamplingPlan;
}

/** [a, b, c...] reordered by `order`, as numpy's transpose. */
export function permute(
  data: Float32Array,
  shape: readonly number[],
  order: readonly number[],
): Float32Array {
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1));
  const target = order.map((axis) => shape[axis] ?? 1);
  const steps = order.map((axis) => strides[axis] ?? 0);
  const result = new Float32Array(data.length);
  const index = target.map(() => 0);
  let from = 0;
  for (let to = 0; to < result.length; to++) {
    result[to] = data[from] ?? 0;
    for (let axis = target.length - 1; axis >= 0; axis--) {
      index[axis] = (index[axis] ?? 0) + 1;
      from += steps[axis] ?? 0;
      if ((index[axis] ?? 0) < (target[axis] ?? 1)) break;
      from -= (steps[axis] ?? 0) * (target[axis] ?? 1);
      index[axis] = 0;
    }
  }
  return result;
}

/** value * scale[channel] + offset[channel] over [channels, ...]. */
export function perChannel(
  data: Float32Array,
  channels: number,
  scale: (channel: number) => number,
  offset: (channel: number) => number,
): Float32Array {
  const size = data.length / channels;
  return data.map((value, i) => {
    const channel = Math.floor(i / size);
    return value * scale(channel) + offset(channel);
  });
}
