import { exampleSource, openTraining, trainedModel } from '@plumb/diffusion';
import type { OptimisationSettings, VideoModel } from '@plumb/diffusion';
import type { Clip } from '@plumb/media';
import type { ObjectiveSettings, TrainingSet } from '@plumb/objective';
import type { TrainingState } from '@plumb/tensor-graph';
import type { Engine } from '@plumb/tensor-graph/engine';

/** Clips of the probe that the anchor distance is measured on. */
const probeClips = 8;

/** One training, without services. */
export interface Finetuning {
  readonly model: VideoModel;
  readonly set: TrainingSet;
  /** By sample id. */
  readonly clips: ReadonlyMap<string, Clip>;
  /** Captions by prompt id. */
  readonly captions: ReadonlyMap<string, string>;
  readonly objective: ObjectiveSettings;
  readonly optimisation: OptimisationSettings;
  /** Of batches. */
  readonly seed: number;
  /** Of times, noise and dropped captions. */
  readonly noiseSeed: string;
  /** State to go on from; with the same threads the end is the same bit for bit. */
  readonly resume?: TrainingState | undefined;
  /** Told after every step; a state is read only when `state` is called. */
  readonly onStep?: (step: {
    readonly step: number;
    readonly metrics: Readonly<Record<string, number>>;
    readonly state: () => Promise<TrainingState>;
  }) => Promise<void> | void;
  readonly signal?: AbortSignal;
}

/** What a training gave. */
export interface Finetuned {
  readonly model: VideoModel;
  /** Mean squared distance of the last policy's predictions from the model it started from. */
  readonly anchorDistance: number;
}

/**
 * Trains on a frozen set with what the trainer service trains with: its batches, its loss graphs, its optimiser.
 * @throws PlumbError INTERNAL (TRAINING_DIVERGED); the signal's reason
 */
export async function finetune(engine: Engine, options: Finetuning): Promise<Finetuned> {
  const { model, set, clips, captions, objective, optimisation, seed, noiseSeed, resume, signal } = options;
  const source = exampleSource({
    config: model.config,
    set,
    clips,
    captions,
    batchSize: optimisation.batchSize,
    seed,
  });
  const training = await openTraining(engine, {
    model,
    objective,
    optimisation,
    seed: noiseSeed,
    anchorProbe: source.probe(probeClips),
    ...(resume === undefined ? {} : { state: resume }),
  });
  try {
    let upcoming: ReturnType<typeof source.batch> | undefined;
    while (training.step < optimisation.steps) {
      signal?.throwIfAborted();
      const { examples } = upcoming ?? source.batch(training.step);
      const following = training.step + 1;
      const metrics = await training.advance(examples, () => {
        upcoming = following < optimisation.steps ? source.batch(following) : undefined;
        return upcoming?.examples;
      });
      await options.onStep?.({ step: training.step, metrics, state: () => training.state() });
    }
    return {
      model: trainedModel(model, optimisation, await training.state()),
      anchorDistance: await training.anchorDistance(),
    };
  } finally {
    await training.close();
  }
}
