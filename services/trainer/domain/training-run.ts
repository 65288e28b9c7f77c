import {
  adapterSpecs,
  learningRateAt,
  openTraining,
  parameterCount,
  trainedAdapters,
  trainedModel,
} from '@plumb/diffusion';
import type { Adapters, Training, VideoModel } from '@plumb/diffusion';
import { invalidArgument, invalidArguments, PlumbError } from '@plumb/kit/errors';
import type { Clip } from '@plumb/media';
import { freezeTrainingSet } from '@plumb/objective';
import type { DataSetManifest } from '@plumb/objective';
import type { TrainingState } from '@plumb/tensor-graph';
import type { Engine } from '@plumb/tensor-graph/engine';
import { create } from '@bufbuild/protobuf';
import { TrainingProgressSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { DataSetSummary, TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { divergenceGuard } from './divergence.ts';
import { exampleSource } from './examples.ts';
import { jobManifest } from './job-manifest.ts';
import type { ArtifactReference, JobPlan, ModelReference } from './job-spec.ts';
import { labelledSamples, summarise, usedSampleIds } from './labelled-samples.ts';
import type { ManifestSample } from './labelled-samples.ts';

/** Bytes that were stored. */
export interface StoredArtifact extends ArtifactReference {
  readonly mediaType: string;
  readonly size: number;
}

/** From where a job goes on. */
export interface ResumePoint {
  /** Steps done. */
  readonly step: number;
  readonly state: StoredArtifact;
  /** Threads of the engine that made it: the same number gives the same last bits. */
  readonly threads: number;
}

/** What training needs of the outside. */
export interface TrainingPorts {
  /** @throws PlumbError NOT_FOUND, DATA_LOSS (another hash), INVALID_ARGUMENT (not a manifest) */
  readDataSet(reference: ArtifactReference): Promise<DataSetManifest>;
  /**
   * Clips by sample id, each verified by its hash.
   * @throws PlumbError NOT_FOUND or DATA_LOSS naming the sample; FAILED_PRECONDITION when they are too large together
   */
  readClips(samples: readonly ManifestSample[], signal: AbortSignal): Promise<ReadonlyMap<string, Clip>>;
  /** @throws PlumbError NOT_FOUND or DATA_LOSS naming the version */
  readModel(reference: ModelReference): Promise<VideoModel>;
  readState(point: ResumePoint): Promise<TrainingState>;
  writeState(state: TrainingState, threads: number): Promise<ResumePoint>;
  writeModel(model: VideoModel): Promise<StoredArtifact>;
  /** @param model the base that they belong to */
  writeAdapters(model: VideoModel, adapters: Adapters): Promise<StoredArtifact>;
  writeManifest(bytes: Uint8Array): Promise<StoredArtifact>;
  openEngine(threads: number): Promise<Engine>;
  /** Threads of the engine of a job that begins. */
  readonly threads: number;
}

/** What one run of a job is given and tells. */
export interface TrainingRun {
  readonly jobId: string;
  readonly plan: JobPlan;
  /**
   * Stops the run within one step. With the reason SHUTTING_DOWN it takes a checkpoint first, so that the next process
   * loses nothing.
   */
  readonly signal: AbortSignal;
  readonly resume: ResumePoint | undefined;
  /** Points up to the resume point. */
  readonly points: readonly TrainingProgress[];
  onSummary(summary: DataSetSummary): void;
  onPoint(point: TrainingProgress): void;
  /** Called with a stored checkpoint; it counts once this has resolved. */
  onCheckpoint(point: ResumePoint): Promise<void>;
}

/** What a finished run made. */
export interface TrainingResult {
  /** The whole model, adapters merged. */
  readonly checkpoint: StoredArtifact;
  /** Undefined where all weights were trained. */
  readonly adapters: StoredArtifact | undefined;
  readonly manifest: StoredArtifact;
}

/** Clips of the probe that the anchor distance is measured on. */
const probeClips = 8;

/** Seeds of the data step and of batches are JavaScript numbers: the low 53 bits. */
function numericSeed(seed: bigint): number {
  return Number(BigInt.asUintN(53, seed));
}

/**
 * Runs a job from its resume point, or from its beginning, to its end. A run that was stopped anywhere and goes on from
 * its last checkpoint ends bit for bit as one that never was.
 * @throws PlumbError what the ports throw; FAILED_PRECONDITION (DATASET_UNUSABLE); INTERNAL (TRAINING_DIVERGED); the
 * reason of the signal
 */
export async function runTraining(run: TrainingRun, ports: TrainingPorts): Promise<TrainingResult> {
  const { plan, signal, resume } = run;
  const manifest = await ports.readDataSet(plan.dataSet);
  const set = freezeTrainingSet(
    labelledSamples(manifest, plan.reward),
    plan.objective,
    numericSeed(plan.seed),
  );
  run.onSummary(summarise(set, manifest));
  const model = await ports.readModel(plan.base);
  checkAdapters(model, plan);
  const reference =
    plan.reference.sha256 === plan.base.sha256 ? model : await ports.readModel(plan.reference);
  checkSameShape(model, reference, plan);
  const used = new Set(usedSampleIds(set));
  const source = exampleSource({
    config: model.config,
    set,
    clips: await ports.readClips(
      manifest.samples.filter(({ sampleId }) => used.has(sampleId)),
      signal,
    ),
    captions: new Map(manifest.samples.map(({ promptId, prompt }) => [promptId, prompt])),
    batchSize: plan.optimisation.batchSize,
    seed: numericSeed(plan.seed),
  });
  const state = resume === undefined ? undefined : await ports.readState(resume);
  const threads = resume?.threads ?? ports.threads;
  const guard = divergenceGuard({ maxAnchorDistance: plan.maxAnchorDistance });
  for (const point of run.points) guard.check(point);

  const engine = await ports.openEngine(threads);
  try {
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
    let saved = training.step;
    const save = async (): Promise<void> => {
      await run.onCheckpoint(await ports.writeState(await training.state(), threads));
      saved = training.step;
    };
    while (training.step < plan.optimisation.steps) {
      if (signal.aborted) {
        const reason = PlumbError.from(signal.reason);
        if (reason.reason === 'SHUTTING_DOWN' && training.step > saved) await save();
        throw reason;
      }
      const point = await step(run, training, source.batch(training.step));
      guard.check(point);
      run.onPoint(point);
      const due = training.step % plan.checkpointEverySteps === 0;
      if (due && training.step < plan.optimisation.steps) await save();
    }
    const final = await training.state();
    const trained = trainedModel(model, plan.optimisation, final, plan.adapters);
    checkFinite(trained);
    const checkpoint = await ports.writeModel(trained);
    const adapters =
      plan.adapters === undefined
        ? undefined
        : await ports.writeAdapters(model, trainedAdapters(model, plan.optimisation, final, plan.adapters));
    const manifestBytes = jobManifest({
      plan,
      set,
      threads,
      result: checkpoint.sha256,
      adapters: adapters?.sha256,
      parameterCount: parameterCount(model.config),
    });
    return { checkpoint, adapters, manifest: await ports.writeManifest(manifestBytes) };
  } finally {
    await engine.close();
  }
}

/** The model of a job's last checkpoint, for a job that did not reach its end. */
export async function modelAt(
  point: ResumePoint,
  plan: JobPlan,
  ports: TrainingPorts,
): Promise<StoredArtifact> {
  const base = await ports.readModel(plan.base);
  return ports.writeModel(trainedModel(base, plan.optimisation, await ports.readState(point), plan.adapters));
}

async function step(
  run: TrainingRun,
  training: Training,
  { examples, weightSpread }: ReturnType<ReturnType<typeof exampleSource>['batch']>,
): Promise<TrainingProgress> {
  const { optimisation } = run.plan;
  const start = performance.now();
  const metrics = await training.advance(examples);
  const seconds = (performance.now() - start) / 1000;
  const { anchorEverySteps } = run.plan;
  const probed =
    anchorEverySteps !== undefined &&
    (training.step % anchorEverySteps === 0 || training.step === optimisation.steps);
  const optional = (field: string, name: string): Record<string, number> => {
    const value = metrics[name];
    return value === undefined ? {} : { [field]: value };
  };
  return create(TrainingProgressSchema, {
    jobId: run.jobId,
    step: training.step,
    totalSteps: optimisation.steps,
    loss: metrics.loss,
    gradientNorm: metrics.gradientNorm,
    learningRate: learningRateAt(optimisation, training.step - 1),
    stepSeconds: seconds,
    samplesPerSecond: optimisation.batchSize / seconds,
    ...optional('anchorDistance', 'anchor_distance'),
    ...(probed ? { anchorDistance: await training.anchorDistance() } : {}),
    ...optional('implicitRewardMargin', 'implicit_reward_margin'),
    ...optional('implicitRewardAccuracy', 'implicit_reward_accuracy'),
    ...optional('sftError', 'sft_error'),
    ...(weightSpread === undefined ? {} : { weightSpread }),
  });
}

/** Adapters that do not fit the model are found before clips are read and an engine is opened. */
function checkAdapters(model: VideoModel, { adapters }: JobPlan): void {
  if (adapters === undefined) return;
  try {
    adapterSpecs(model.config, adapters);
  } catch (thrown) {
    const { fieldViolations } = PlumbError.from(thrown);
    if (fieldViolations === undefined) throw thrown;
    throw invalidArguments(
      fieldViolations.map(({ field, description }) => ({ field: `spec.${field}`, description })),
      { cause: thrown },
    );
  }
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

/** The last step may have left a loss that is finite and weights that are not. */
function checkFinite(model: VideoModel): void {
  for (const [name, values] of model.parameters) {
    if (!values.every(Number.isFinite)) {
      throw new PlumbError({
        code: 'INTERNAL',
        reason: 'TRAINING_DIVERGED',
        message: `training diverged: ${name} ends with values that are not finite; lower optimisation.learning_rate`,
        metadata: { cause: 'not-finite' },
      });
    }
  }
}
