import type { ObjectiveSettings } from '@plumb/objective';
import { buildTrainingStep, type TrainingProgram, type TrainingState } from '@plumb/tensor-graph';
import type { Engine, TypedTensor } from '@plumb/tensor-graph/engine';
import {
  adapterSpecs,
  initialiseAdapters,
  mergeParameters,
  modelHash,
  type Adapters,
  type AdapterSettings,
} from './adapters.ts';
import { openAnchorProbe } from './anchor-probe.ts';
import type { VideoModel } from './model-file.ts';
import { optimiserOf, type OptimisationSettings } from './optimisation.ts';
import { trainingFeeds, type TrainingExample } from './training-batch.ts';
import { REFERENCE_PREFIX, trainingGraph } from './training-graph.ts';
import { openTrainingLoop, type Training } from './training-loop.ts';
import { parameterSpecs } from './video-dit.ts';

/**
 * Items that share one pass of the graph. A batch is cut into these, so that activations stay in the cache; `kto`
 * estimates its reference point from a pass and takes the whole batch at once.
 */
function microBatchOf(objective: ObjectiveSettings, batchSize: number): number {
  return objective.algorithm !== 'kto' && batchSize % 4 === 0 ? 4 : batchSize;
}

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
    optimiser: optimiserOf(optimisation),
    precision: optimisation.precision,
    ...(frozen.size > 0 ? { frozen } : {}),
  });
}

/** Opens a training job; its state lives in the engine and crosses over only when asked for. */
export async function openTraining(engine: Engine, options: TrainingOptions): Promise<Training> {
  const { model, optimisation, seed, adapters } = options;
  const { config } = model;
  const reference = options.reference ?? model;
  const start = adapters === undefined ? model.parameters : initialiseAdapters(config, adapters, seed);
  const feeds = (examples: readonly TrainingExample[], step: number): Record<string, TypedTensor> =>
    trainingFeeds(config, examples, {
      seed,
      step,
      timesteps: optimisation.timesteps,
      captionDropout: optimisation.captionDropout,
    });
  return openTrainingLoop(engine, {
    name: `${config.name}-${seed}`,
    program: trainingProgram(options),
    start,
    optimisation,
    feeds,
    ...(options.state === undefined ? {} : { state: options.state }),
    ...(options.anchorProbe === undefined
      ? {}
      : {
          anchorProbe: (id: string) =>
            openAnchorProbe(engine, id, {
              model,
              reference,
              adapters,
              examples: options.anchorProbe ?? [],
              timesteps: optimisation.timesteps,
              seed,
            }),
        }),
  });
}

/** The weights that a state stands for: their moving average, or themselves where there is none. */
export function trainedValues(
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
