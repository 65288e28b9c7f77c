/** What a pipeline's caller may change about a schedule. */
export interface ScheduleOptions {
  /** Noise levels in place of the scheduler's own spacing, descending from 1; flow schedulers only. */
  readonly sigmas?: readonly number[];
  /** Amount of dynamic shifting, where the configuration asks for it. */
  readonly mu?: number;
  /** Timestep shift in place of the configuration's; flow schedulers only. */
  readonly shift?: number;
}

/** One sampling run: state of the solver is kept here, so a run serves one batch. */
export interface SchedulerRun {
  /** What the denoiser is given, descending; one for each step. */
  readonly timesteps: readonly number[];
  /**
   * The sample after step `index`. Steps must be taken in order.
   * @param prediction what the denoiser said of `sample` at `timesteps[index]`, elementwise
   * @param noise a fresh draw from N(0, 1) of the sample's size; called only by steps that need one
   */
  step(
    index: number,
    prediction: Float32Array,
    sample: Float32Array,
    noise: () => Float32Array,
  ): Float32Array;
}

/** The noise that a model of a scheduler was trained on, and what it learned to predict of it. */
export type TrainingNoise =
  /** Clip and noise mixed in straight lines; the model is told the share of noise times `timesteps`. */
  | { readonly kind: 'flow'; readonly timesteps: number }
  /** Variance kept, in discrete steps; `alphaBars` is the share of the signal's variance at each, falling. */
  | {
      readonly kind: 'discrete';
      readonly alphaBars: readonly number[];
      readonly predicts: 'epsilon' | 'sample' | 'v_prediction' | 'flow_prediction';
    };

/** A scheduler as a scheduler_config.json describes it. */
export interface Scheduler {
  /** Class in diffusers. */
  readonly kind: string;
  /** True where noise and clip are mixed in straight lines, so that a timestep shift has a meaning. */
  readonly isFlow: boolean;
  /** Shift that depends on the length of the sequence; undefined where the configuration asks for none. */
  readonly dynamicShift: ((sequenceLength: number) => number) | undefined;
  readonly trainingNoise: TrainingNoise;
  /** @throws PlumbError INVALID_ARGUMENT for a number of steps or an option that the scheduler does not take */
  start(steps: number, options?: ScheduleOptions): SchedulerRun;
}

/** Sum of arrays with factors; all arrays have one length. */
export function combine(...terms: readonly (readonly [factor: number, array: Float32Array])[]): Float32Array {
  const result = new Float32Array(terms[0]?.[1].length ?? 0);
  for (let i = 0; i < result.length; i++) {
    let sum = 0;
    for (const [factor, array] of terms) if (factor !== 0) sum += factor * (array[i] ?? 0);
    result[i] = sum;
  }
  return result;
}

/** Values kept within -limit and limit. */
export function clamp(array: Float32Array, limit: number): Float32Array {
  return array.map((value) => Math.min(Math.max(value, -limit), limit));
}
