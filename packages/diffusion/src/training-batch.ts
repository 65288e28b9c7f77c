import type { TypedTensor } from '@plumb/tensor-graph/engine';
import { clipShape, clipSize, type VideoModelConfig } from './config.ts';
import { preconditioning, signalAndNoise } from './parameterisation.ts';
import { fillGaussian, randomGenerator, uniform } from './random.ts';
import { drawTimestep, type TimestepDistribution } from './timesteps.ts';

/** One item of a batch; clips as `clipToModel` writes them. */
export interface TrainingExample {
  /** The clip, or the chosen one of a pair: float32 [3, frames, height, width]. */
  readonly clip: Float32Array;
  /** The rejected clip of a pair. */
  readonly rejected?: Float32Array;
  /** Tokens of the caption, int32 [maxWords]. */
  readonly tokens: Int32Array;
  readonly weight: number;
  /** Label of a labelled sample. */
  readonly accepted?: boolean;
  /** Tokens of another prompt's caption, for the estimate of the divergence in kto. */
  readonly mismatchedTokens?: Int32Array;
}

/**
 * Inputs of one training step. Times, noise and dropped captions follow from (seed, step) alone, so that a resumed
 * job draws what the interrupted one would have drawn. Both clips of a pair share time and noise.
 */
export function trainingFeeds(
  config: VideoModelConfig,
  examples: readonly TrainingExample[],
  options: {
    readonly seed: string;
    readonly step: number;
    readonly timesteps: TimestepDistribution;
    /** Share of captions replaced by the empty one, for classifier-free guidance. */
    readonly captionDropout: number;
  },
): Record<string, TypedTensor> {
  const batch = examples.length;
  const size = clipSize(config);
  const shape = [...clipShape(config, batch)];
  const words = config.caption.maxWords;
  const random = randomGenerator(options.seed, 'step', options.step);
  const clips = (pick: (example: TrainingExample) => Float32Array | undefined): TypedTensor => {
    const data = new Float32Array(batch * size);
    examples.forEach((example, row) => {
      const clip = pick(example);
      if (clip?.length !== size)
        throw new TypeError(`item ${row} of the batch has no clip of ${size} values`);
      data.set(clip, row * size);
    });
    return { dtype: 'float32', shape, data };
  };
  const column = (): Float32Array => new Float32Array(batch);
  const factors = { signal: column(), noiseLevel: column(), skip: column(), in: column(), out: column() };
  const time = column();
  const tokens = new Int32Array(batch * words);
  const mismatched = new Int32Array(batch * words);
  examples.forEach((example, row) => {
    const t = drawTimestep(options.timesteps, random);
    const { signal, noise } = signalAndNoise(config.parameterisation, t);
    const precondition = preconditioning(config.parameterisation, t, config.sigmaData);
    time[row] = t;
    factors.signal[row] = signal;
    factors.noiseLevel[row] = noise;
    factors.skip[row] = precondition.skip;
    factors.in[row] = precondition.in;
    factors.out[row] = precondition.out;
    // Drawn for every row, so that the share dropped does not shift later draws.
    const dropped = uniform(random) < options.captionDropout;
    if (!dropped) tokens.set(example.tokens, row * words);
    if (example.mismatchedTokens !== undefined) mismatched.set(example.mismatchedTokens, row * words);
  });
  const feeds: Record<string, TypedTensor> = {
    x0: clips((example) => example.clip),
    noise: { dtype: 'float32', shape, data: fillGaussian(new Float32Array(batch * size), random) },
    time: { dtype: 'float32', shape: [batch, 1], data: time },
    tokens: { dtype: 'int32', shape: [batch, words], data: tokens },
    weights: {
      dtype: 'float32',
      shape: [batch],
      data: Float32Array.from(examples, (example) => example.weight),
    },
  };
  for (const [name, data] of Object.entries(factors)) {
    feeds[name] = { dtype: 'float32', shape: [batch, 1, 1, 1, 1], data };
  }
  if (examples[0]?.rejected !== undefined) feeds['rejected'] = clips((example) => example.rejected);
  if (examples[0]?.accepted !== undefined) {
    feeds['accepted'] = {
      dtype: 'float32',
      shape: [batch],
      data: Float32Array.from(examples, (example) => (example.accepted === true ? 1 : 0)),
    };
  }
  if (examples[0]?.mismatchedTokens !== undefined) {
    feeds['mismatchedTokens'] = { dtype: 'int32', shape: [batch, words], data: mismatched };
  }
  return feeds;
}
