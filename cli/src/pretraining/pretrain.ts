import { createHash } from 'node:crypto';
import {
  clipSize,
  clipToModel,
  initialiseModel,
  openTraining,
  tokenise,
  trainedModel,
  type OptimisationSettings,
  type TrainingExample,
  type VideoModel,
  type VideoModelConfig,
} from '@plumb/diffusion';
import { parseObjectiveSettings } from '@plumb/objective';
import type { TrainingState } from '@plumb/tensor-graph';
import type { Engine } from '@plumb/tensor-graph/engine';
import { sampleTrainingClip } from '@plumb/toybox';
import type { MixturePhase } from './recipe.ts';

/** Seeds of clips are 32-bit and those of pretraining must not meet those of evaluation: both begin at a hash. */
function firstClipSeed(seed: string): number {
  return createHash('sha256').update(`pretraining clips ${seed}`).digest().readUInt32LE(0) >>> 2;
}

/** Renders the batch of a step: fresh clips, so that nothing is seen twice. */
export function pretrainingBatch(
  config: VideoModelConfig,
  options: {
    readonly seed: string;
    readonly step: number;
    readonly batchSize: number;
    readonly mixture: readonly MixturePhase[];
  },
): TrainingExample[] {
  const phase = options.mixture.findLast(({ fromStep }) => fromStep <= options.step);
  if (phase === undefined) throw new TypeError('the first phase of the mixture must begin at step 0');
  const { wrongShare, categoryWeights } = phase;
  const first = firstClipSeed(options.seed) + options.step * options.batchSize;
  return Array.from({ length: options.batchSize }, (_, row) => {
    const { clip, caption } = sampleTrainingClip(first + row, { wrongShare, categoryWeights });
    const values = new Float32Array(clipSize(config));
    clipToModel(config, clip, values);
    return { clip: values, tokens: tokenise(config, caption), weight: 1 };
  });
}

/** What a pretraining reports as it goes. */
export interface PretrainingProgress {
  readonly step: number;
  readonly loss: number;
  readonly gradientNorm: number;
  readonly secondsPerStep: number;
}

/**
 * Trains a video model on the toybox from nothing, or goes on from a state. The same seed, steps and machine give the
 * same weights bit for bit.
 * @param options.checkpoint called every `checkpointEvery` steps with all that is needed to go on
 */
export async function pretrain(
  engine: Engine,
  config: VideoModelConfig,
  options: {
    readonly seed: string;
    readonly optimisation: OptimisationSettings;
    readonly mixture: readonly MixturePhase[];
    readonly state?: TrainingState;
    readonly checkpointEvery: number;
    readonly onProgress: (progress: PretrainingProgress) => void;
    readonly checkpoint: (state: TrainingState, model: VideoModel) => Promise<void>;
    readonly signal: AbortSignal;
  },
): Promise<VideoModel> {
  const { seed, optimisation, mixture } = options;
  const model = initialiseModel(config, seed);
  const training = await openTraining(engine, {
    model,
    objective: parseObjectiveSettings({ algorithm: 'sft' }),
    optimisation,
    seed: `pretrain ${seed}`,
    ...(options.state === undefined ? {} : { state: options.state }),
  });
  const batch = (step: number): TrainingExample[] =>
    pretrainingBatch(config, { seed, step, batchSize: optimisation.batchSize, mixture });
  let next = batch(training.step);
  while (training.step < optimisation.steps) {
    options.signal.throwIfAborted();
    const started = performance.now();
    const step = training.advance(next);
    // The next batch is rendered while the engine works on this one.
    if (training.step + 1 < optimisation.steps) next = batch(training.step + 1);
    const { loss, gradientNorm } = await step;
    options.onProgress({
      step: training.step,
      loss,
      gradientNorm,
      secondsPerStep: (performance.now() - started) / 1000,
    });
    if (training.step % options.checkpointEvery === 0 && training.step < optimisation.steps) {
      const state = await training.state();
      await options.checkpoint(state, trainedModel(model, optimisation, state));
    }
  }
  const result = trainedModel(model, optimisation, await training.state());
  await training.close();
  return result;
}
