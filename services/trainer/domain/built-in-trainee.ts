import {
  adapterSpecs,
  exampleSource,
  openSampler,
  openTraining,
  parameterCount,
  trainedAdapters,
  trainedModel,
} from '@plumb/diffusion';
import type { Adapters, VideoModel } from '@plumb/diffusion';
import { invalidArgument } from '@plumb/kit/errors';
import type { Clip } from '@plumb/media';
import type { TrainingState } from '@plumb/tensor-graph';
import { checkFinite } from './divergence.ts';
import { inSpec, numericSeed } from './job-spec.ts';
import type { JobPlan, ModelReference } from './job-spec.ts';
import type { ManifestSample } from './labelled-samples.ts';
import { courseOf } from './trainee.ts';
import type { Trainee } from './trainee.ts';
import type { StoredArtifact } from './training-run.ts';

/** What training the built-in model needs of the outside. */
export interface BuiltInPorts {
  /**
   * Clips by sample id, each verified by its hash.
   * @throws PlumbError NOT_FOUND or DATA_LOSS naming the sample; FAILED_PRECONDITION when they are too large together
   */
  readClips(samples: readonly ManifestSample[], signal: AbortSignal): Promise<ReadonlyMap<string, Clip>>;
  /** @throws PlumbError NOT_FOUND or DATA_LOSS naming the version */
  readModel(reference: ModelReference): Promise<VideoModel>;
  writeModel(model: VideoModel): Promise<StoredArtifact>;
  /** @param model the base that they belong to */
  writeAdapters(model: VideoModel, adapters: Adapters): Promise<StoredArtifact>;
}

/** Clips of the probe that the anchor distance is measured on. */
const probeClips = 8;

/**
 * The built-in model, which is trained on pixels, all of it or adapters.
 * @throws PlumbError what the ports throw; INVALID_ARGUMENT for adapters or a reference that do not fit the model
 */
export async function builtInTrainee(plan: JobPlan, ports: BuiltInPorts): Promise<Trainee> {
  const model = await ports.readModel(plan.base);
  if (plan.adapters !== undefined) {
    const { adapters } = plan;
    inSpec(() => adapterSpecs(model.config, adapters));
  }
  const reference =
    plan.reference.sha256 === plan.base.sha256 ? model : await ports.readModel(plan.reference);
  checkSameShape(model, reference, plan);
  const modelOf = (state: TrainingState): VideoModel =>
    trainedModel(model, plan.optimisation, state, plan.adapters);
  return {
    parameterCount: parameterCount(model.config),
    async prepare({ set, samples, captions, signal }) {
      const source = exampleSource({
        config: model.config,
        set,
        clips: await ports.readClips(samples, signal),
        captions,
        batchSize: plan.optimisation.batchSize,
        seed: numericSeed(plan.seed),
      });
      return {
        weightSpread: source.weightSpread,
        async open(engine, state) {
          const training = await openTraining(engine, {
            model,
            reference,
            objective: plan.objective,
            optimisation: plan.optimisation,
            seed: plan.seed.toString(),
            ...(plan.adapters === undefined ? {} : { adapters: plan.adapters }),
            ...(plan.anchorEverySteps === undefined ? {} : { anchorProbe: source.probe(probeClips) }),
            ...(state === undefined ? {} : { state }),
          });
          return courseOf(training, source, plan.optimisation.steps);
        },
      };
    },
    openSampler: (engine, state, batch) =>
      Promise.resolve(openSampler(engine, state === undefined ? model : modelOf(state), batch)),
    async store(state) {
      const trained = modelOf(state);
      checkFinite(trained.parameters);
      return {
        checkpoint: await ports.writeModel(trained),
        adapters:
          plan.adapters === undefined
            ? undefined
            : await ports.writeAdapters(
                model,
                trainedAdapters(model, plan.optimisation, state, plan.adapters),
              ),
      };
    },
  };
}

function checkSameShape(model: VideoModel, reference: VideoModel, plan: JobPlan): void {
  for (const [name, values] of model.parameters) {
    const other = reference.parameters.get(name);
    if (other?.length !== values.length) {
      throw invalidArgument(
        'spec.reference',
        `${plan.reference.version} has ${other === undefined ? 'no weights' : `${other.length} weights`} for ${name}, but ${plan.base.version} has ${values.length}; use a reference of the same architecture`,
      );
    }
  }
}
