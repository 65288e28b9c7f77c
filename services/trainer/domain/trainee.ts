import type { ClipSampler, ExampleSource, Training } from '@plumb/diffusion';
import type { TrainingSet } from '@plumb/objective';
import type { TrainingState } from '@plumb/tensor-graph';
import type { Engine } from '@plumb/tensor-graph/engine';
import type { ManifestSample } from './labelled-samples.ts';
import type { StoredArtifact } from './training-run.ts';

/** What a trained model is stored as. */
export interface StoredModel {
  /** What is registered as the version. */
  readonly checkpoint: StoredArtifact;
  /** Undefined where all weights were trained. */
  readonly adapters: StoredArtifact | undefined;
}

/** A model that a job trains, whatever kind it is: its weights were read and everything about the plan that it decides checked. */
export interface Trainee {
  /** Weights of the model that is trained, adapters left out. */
  readonly parameterCount: number;
  /** Command line of the program that takes the steps; absent where the engine does. */
  readonly trainedBy?: readonly string[];
  /** Tokens that captions are padded to, of a model that is trained on embeddings of them. */
  readonly maxTextTokens?: number;
  /**
   * Reads what the model is trained on.
   * @param samples those that the set uses
   * @param captions by prompt id
   * @throws PlumbError NOT_FOUND or DATA_LOSS naming the sample; FAILED_PRECONDITION when they are too large together
   */
  prepare(options: {
    readonly set: TrainingSet;
    readonly samples: readonly ManifestSample[];
    readonly captions: ReadonlyMap<string, string>;
    readonly signal: AbortSignal;
  }): Promise<PreparedTraining>;
  /** What training would give if it ended in a state, ready to sample; where it begins unless given. */
  openSampler(engine: Engine, state: TrainingState | undefined, batch: number): Promise<ClipSampler>;
  /**
   * Stores what a state stands for.
   * @throws PlumbError INTERNAL (TRAINING_DIVERGED) for values that are not finite
   */
  store(state: TrainingState): Promise<StoredModel>;
}

/** A training whose data is there. */
export interface PreparedTraining {
  /** See `ExampleSource`. */
  readonly weightSpread: number | undefined;
  /** @param state of an earlier run of the same job */
  open(engine: Engine, state: TrainingState | undefined): Promise<Course>;
}

/** A training with its batches. */
export interface Course {
  /** Steps done. */
  readonly step: number;
  /** One optimiser step; see `Training.advance`. */
  advance(): ReturnType<Training['advance']>;
  anchorDistance(): Promise<number>;
  state(): Promise<TrainingState>;
}

/** A training on the batches of a source, each made while the engine is busy with the one before. */
export function courseOf<Example>(
  training: Training<Example>,
  source: ExampleSource<Example>,
  steps: number,
): Course {
  let upcoming: readonly Example[] | undefined;
  return {
    get step() {
      return training.step;
    },
    async advance() {
      const examples = upcoming ?? source.batch(training.step).examples;
      upcoming = undefined;
      const following = training.step + 1;
      return await training.advance(examples, () => {
        // The last step has none after it.
        if (following < steps) upcoming = source.batch(following).examples;
        return upcoming;
      });
    },
    anchorDistance: () => training.anchorDistance(),
    state: () => training.state(),
  };
}
