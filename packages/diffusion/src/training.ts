import { setTimeout as delay } from 'node:timers/promises';
import { PlumbError } from '@plumb/kit/errors';
import type { ObjectiveSettings } from '@plumb/objective';
import {
  buildTrainingStep,
  initialTrainingState,
  type TrainingProgram,
  type TrainingState,
} from '@plumb/tensor-graph';
import type { Engine, TypedTensor } from '@plumb/tensor-graph/engine';
import {
  adapterSpecs,
  initialiseAdapters,
  mergeParameters,
  modelHash,
  type Adapters,
  type AdapterSettings,
} from './adapters.ts';
import { openAnchorProbe, type AnchorProbe } from './anchor-probe.ts';
import type { VideoModel } from './model-file.ts';
import { learningRateAt, type OptimisationSettings } from './optimisation.ts';
import { trainingFeeds, type TrainingExample } from './training-batch.ts';
import { REFERENCE_PREFIX, trainingGraph } from './training-graph.ts';
import { parameterSpecs } from './video-dit.ts';

/**
 * Items that share one pass of the graph. A batch is cut into these, so that activations stay in the cache; `kto`
 * estimates its reference point from a pass and takes the whole batch at once.
 */
function microBatchOf(objective: ObjectiveSettings, batchSize: number): number {
  return objective.algorithm !== 'kto' && batchSize % 4 === 0 ? 4 : batchSize;
}

/** A float16 gradient that overflows with a loss scaled by less has diverged. */
const smallestLossScale = 1;

/** How long the feeds of a step have to reach the engine before those of the next are made, in milliseconds. */
const headStartMs = 20;

/** What a training job is. */
export interface TrainingOptions {
  /** Where training starts. */
  readonly model: VideoModel;
  /** The frozen reference p_ref, where the objective has one; the starting model unless given. */
  readonly reference?: VideoModel;
  readonly objective: ObjectiveSettings;
  readonly optimisation: OptimisationSettings;
  /** Trains adapters of these settings on the frozen starting model; all weights are trained unless given. */
  readonly adapters?: AdapterSettings;
  /** Of times, noise, dropped captions and fresh adapters; batches have their own. */
  readonly seed: string;
  /** Examples for `anchorDistance`; they need a clip and tokens. */
  readonly anchorProbe?: readonly TrainingExample[];
  /** State of an earlier run of the same job, to go on from. */
  readonly state?: TrainingState;
}

/** A training job on an engine. Steps must be taken in order. */
export interface Training {
  /** Steps done. */
  readonly step: number;
  /**
   * Takes one optimiser step on `batchSize` examples.
   * @param upcoming makes the examples of the step after, which is called while the engine works on this one; their
   * noise is drawn then as well. Give those very examples to the next call.
   * @returns metrics of the step: `loss`, `gradientNorm` (before clipping) and the objective's own; of a float16 training
   * also `lossScale` and `skippedSteps` so far, and `gradientNorm` is not finite in a step that was skipped
   * @throws PlumbError INTERNAL (TRAINING_DIVERGED) when loss or gradient is not finite; the state is then lost
   */
  advance(
    examples: readonly TrainingExample[],
    upcoming?: () => readonly TrainingExample[] | undefined,
  ): Promise<{ readonly loss: number; readonly gradientNorm: number } & Readonly<Record<string, number>>>;
  /**
   * Mean squared distance between the predictions of policy and reference on the fixed examples of `anchorProbe`: one
   * forward pass. Does not change what the next step does.
   * @throws TypeError when the training was opened without a probe
   */
  anchorDistance(): Promise<number>;
  /** Weights and optimiser state after the last step: all that is needed to go on bit for bit. */
  state(): Promise<TrainingState>;
  close(): Promise<void>;
}

/** What decides the program of a training step. */
export type TrainingProgramOptions = Pick<
  TrainingOptions,
  'model' | 'reference' | 'objective' | 'optimisation' | 'adapters'
>;

/** The program of one training step: the objective's graph for a micro-batch, its gradients, and the optimiser. */
export function trainingProgram(options: TrainingProgramOptions): TrainingProgram {
  const { model, objective, optimisation, adapters } = options;
  const { config } = model;
  const microBatch = microBatchOf(objective, optimisation.batchSize);
  const reference = options.reference ?? model;
  const { graph, loss, metrics, trainable, usesBase, usesReference } = trainingGraph(
    config,
    objective,
    microBatch,
    adapters === undefined ? undefined : { settings: adapters, referenceIsBase: reference === model },
    optimisation.rematerialise,
  );
  const frozen = new Map<string, Float32Array>(usesBase ? model.parameters : []);
  if (usesReference) {
    for (const [name, values] of reference.parameters) frozen.set(`${REFERENCE_PREFIX}${name}`, values);
  }
  return buildTrainingStep({
    graph,
    loss,
    metrics,
    parameters: trainable,
    // beta2 below the usual 0.999 follows the changing gradients of noisy times faster.
    optimiser: {
      beta1: 0.9,
      beta2: 0.98,
      weightDecay: optimisation.weightDecay,
      clipNorm: optimisation.clipNorm,
      ema: optimisation.emaDecay > 0,
    },
    precision: optimisation.precision,
    ...(frozen.size > 0 ? { frozen } : {}),
  });
}

/** Opens a training job; its state lives in the engine and crosses over only when asked for. */
export async function openTraining(engine: Engine, options: TrainingOptions): Promise<Training> {
  const { model, optimisation, seed, adapters } = options;
  const { config } = model;
  const reference = options.reference ?? model;
  const program = trainingProgram(options);
  const start = adapters === undefined ? model.parameters : initialiseAdapters(config, adapters, seed);
  const initial = options.state ?? initialTrainingState(program, Object.fromEntries(start));
  const id = await engine.openTraining(`${config.name}-${seed}`, program, initial, {});
  let probe: AnchorProbe | undefined;
  if (options.anchorProbe !== undefined) {
    const { timesteps } = optimisation;
    const examples = options.anchorProbe;
    probe = await openAnchorProbe(engine, id, { model, reference, adapters, examples, timesteps, seed });
  }
  let step = initial.step;
  const feedsOf = (examples: readonly TrainingExample[], at: number): Record<string, TypedTensor> =>
    trainingFeeds(config, examples, {
      seed,
      step: at,
      timesteps: optimisation.timesteps,
      captionDropout: optimisation.captionDropout,
    });
  let prepared:
    { examples: readonly TrainingExample[]; step: number; feeds: Record<string, TypedTensor> } | undefined;
  return {
    get step() {
      return step;
    },
    async advance(examples, upcoming) {
      if (examples.length !== optimisation.batchSize) {
        throw new TypeError(`a step takes ${optimisation.batchSize} examples, not ${examples.length}`);
      }
      const feeds =
        prepared?.examples === examples && prepared.step === step ? prepared.feeds : feedsOf(examples, step);
      const running = engine.trainStep(id, feeds, {
        learningRate: learningRateAt(optimisation, step),
        ...(optimisation.emaDecay > 0 ? { emaDecay: emaDecayAt(optimisation.emaDecay, step) } : {}),
      });
      if (upcoming !== undefined) {
        // Large feeds cross over in pieces, for which this thread must be free; what goes wrong in the step is told below.
        await Promise.race([running.catch(() => undefined), delay(headStartMs)]);
      }
      const next = upcoming?.();
      prepared =
        next === undefined ? undefined : { examples: next, step: step + 1, feeds: feedsOf(next, step + 1) };
      const result = await running;
      const { loss: value, gradientNorm, ...others } = result;
      if (value === undefined || gradientNorm === undefined) {
        throw new TypeError('the training program reports no loss or no gradientNorm');
      }
      // A float16 gradient that overflows is skipped and scaled down, down to where scaling is not what it needs.
      const scaling = result['lossScale'] !== undefined && result['lossScale'] >= smallestLossScale;
      if (!Number.isFinite(value) || !(Number.isFinite(gradientNorm) || scaling)) {
        throw new PlumbError({
          code: 'INTERNAL',
          reason: 'TRAINING_DIVERGED',
          message: `training diverged at step ${step}: loss ${value}, gradient norm ${gradientNorm}; lower optimisation.learningRate`,
        });
      }
      step++;
      return { ...others, loss: value, gradientNorm };
    },
    anchorDistance() {
      if (probe === undefined) throw new TypeError('this training has no anchor probe');
      return probe.distance();
    },
    state: () => engine.readTraining(id),
    async close() {
      await probe?.close();
      await engine.closeTraining(id);
    },
  };
}

/** A moving average with full decay would remember the random beginning for long: it starts shorter. */
function emaDecayAt(decay: number, step: number): number {
  return Math.min(decay, (step + 1) / (step + 10));
}

/** The weights that a state stands for: their moving average, or themselves where there is none. */
function trainedValues(
  names: readonly string[],
  optimisation: OptimisationSettings,
  state: TrainingState,
): Map<string, Float32Array> {
  const values = optimisation.emaDecay > 0 ? state.ema : state.parameters;
  return new Map(
    names.map((name) => {
      const weights = values[name];
      if (weights === undefined) throw new TypeError(`the training state has no weights for ${name}`);
      return [name, weights];
    }),
  );
}

/**
 * The model that a state stands for: its moving average, or its weights where there is none.
 * @param model where training started
 * @param adapters the settings of a state that holds adapters; they are merged into the model
 */
export function trainedModel(
  model: VideoModel,
  optimisation: OptimisationSettings,
  state: TrainingState,
  adapters?: AdapterSettings,
): VideoModel {
  const specs = adapters === undefined ? parameterSpecs(model.config) : adapterSpecs(model.config, adapters);
  const values = trainedValues(
    specs.map(({ name }) => name),
    optimisation,
    state,
  );
  return adapters === undefined
    ? { config: model.config, parameters: values }
    : mergeParameters(model, adapters, values);
}

/** The adapters that a state stands for, bound to the model that they were trained on. */
export function trainedAdapters(
  model: VideoModel,
  optimisation: OptimisationSettings,
  state: TrainingState,
  settings: AdapterSettings,
): Adapters {
  const names = adapterSpecs(model.config, settings).map(({ name }) => name);
  return { settings, base: modelHash(model), parameters: trainedValues(names, optimisation, state) };
}
