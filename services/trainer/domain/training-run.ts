import {
  adapterSpecs,
  exampleSource,
  learningRateAt,
  openTraining,
  parameterCount,
  trainedAdapters,
  trainedModel,
} from '@plumb/diffusion';
import type { Adapters, ExampleBatch, Training, VideoModel } from '@plumb/diffusion';
import type { OverOptimisationFinding } from '@plumb/evaluation';
import { failedPrecondition, invalidArgument, invalidArguments, PlumbError } from '@plumb/kit/errors';
import type { Clip } from '@plumb/media';
import { freezeTrainingSet } from '@plumb/objective';
import type { DataSetManifest } from '@plumb/objective';
import type { TrainingState } from '@plumb/tensor-graph';
import type { Engine } from '@plumb/tensor-graph/engine';
import { create } from '@bufbuild/protobuf';
import {
  EarlyStopSchema,
  StopReason,
  TrainingProgressSchema,
} from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type {
  DataSetSummary,
  EarlyStop,
  ProbeResult,
  TrainingProgress,
} from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { divergenceGuard } from './divergence.ts';
import { jobManifest } from './job-manifest.ts';
import type { ArtifactReference, JobPlan, ModelReference } from './job-spec.ts';
import { labelledSamples, summarise, usedSampleIds } from './labelled-samples.ts';
import type { ManifestSample } from './labelled-samples.ts';
import type { ProbePlan } from './probe-spec.ts';
import { checkHeldOut, judgeProbes, runProbe } from './probe.ts';
import type { ScoreClips } from './probe.ts';

/** Bytes that were stored. */
export interface StoredArtifact extends ArtifactReference {
  readonly mediaType: string;
  readonly size: number;
}

/** Weights and optimiser state after a step. */
export interface SavedState {
  /** Steps done. */
  readonly step: number;
  readonly state: StoredArtifact;
}

/** From where a job goes on. */
export interface ResumePoint extends SavedState {
  /** The state at the last probe that showed nothing of over-optimisation; it is kept for a job that stops early. */
  readonly good?: SavedState | undefined;
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
  readState(point: SavedState): Promise<TrainingState>;
  writeState(state: TrainingState, threads: number): Promise<ResumePoint>;
  /** Removes a stored state that no resume point names any more. */
  removeState(state: StoredArtifact): Promise<void>;
  writeModel(model: VideoModel): Promise<StoredArtifact>;
  /** @param model the base that they belong to */
  writeAdapters(model: VideoModel, adapters: Adapters): Promise<StoredArtifact>;
  writeManifest(bytes: Uint8Array): Promise<StoredArtifact>;
  openEngine(threads: number): Promise<Engine>;
  /** Threads of the engine of a job that begins. */
  readonly threads: number;
  /** Undefined where there is no Reward API: jobs with a probe are refused. */
  readonly scoreClips: ScoreClips | undefined;
}

/** What one run of a job is given and tells. */
export interface TrainingRun {
  readonly jobId: string;
  /** Whose budget the scores of probes count against; empty for a job outside a run. */
  readonly runId: string;
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
  /** Steps done. */
  readonly step: number;
  /** Undefined where the job took all its steps, or its last probe showed nothing. */
  readonly earlyStop: EarlyStop | undefined;
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
 * @throws PlumbError what the ports throw; FAILED_PRECONDITION (DATASET_UNUSABLE, OVER_OPTIMISED where no checkpoint is
 * worth keeping); INTERNAL (TRAINING_DIVERGED); PROBE_FAILED; the reason of the signal
 */
export async function runTraining(run: TrainingRun, ports: TrainingPorts): Promise<TrainingResult> {
  const { plan, signal, resume } = run;
  const manifest = await ports.readDataSet(plan.dataSet);
  if (plan.probe !== undefined) checkHeldOut(plan.probe, manifest);
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
    /** The next batch, made while the engine was busy with the one before. */
    let upcoming: ExampleBatch | undefined;
    let good = resume?.good;
    const save = async (options: { good?: true } = {}): Promise<void> => {
      const stored = await ports.writeState(await training.state(), threads);
      if (options.good === true) good = { step: stored.step, state: stored.state };
      await run.onCheckpoint({ ...stored, ...(good === undefined ? {} : { good }) });
      saved = training.step;
    };
    const probes = run.points.flatMap((point) => point.probes);
    /** Probes the policy as it is; its results go out with the next point. */
    const probe = async (probed: ProbePlan): Promise<ProbeResult> => {
      const state = training.step === 0 ? undefined : await training.state();
      const result = await runProbe({
        plan: probed,
        step: training.step,
        model: state === undefined ? model : trainedModel(model, plan.optimisation, state, plan.adapters),
        engine,
        score: requireScores(ports),
        seed: plan.seed,
        runId: run.runId,
        signal,
      });
      probes.push(result);
      result.findings.push(...judgeProbes(probed, probes).findings);
      return result;
    };
    const before = plan.probe === undefined || training.step > 0 ? undefined : await probe(plan.probe);
    // Follows from the probes alone, so a job that was killed after the last of them stops as well.
    const stopped = (): readonly OverOptimisationFinding[] =>
      plan.probe === undefined ? [] : judgeProbes(plan.probe, probes).stop;
    while (training.step < plan.optimisation.steps && stopped().length === 0) {
      if (signal.aborted) {
        const reason = PlumbError.from(signal.reason);
        if (reason.reason === 'SHUTTING_DOWN' && training.step > saved) await save();
        throw reason;
      }
      const batch = upcoming ?? source.batch(training.step);
      upcoming = undefined;
      const point = await step(run, training, batch, source.weightSpread, (following) => {
        // The last step has none after it.
        if (following < plan.optimisation.steps) upcoming = source.batch(following);
        return upcoming?.examples;
      });
      guard.check(point);
      if (before !== undefined && training.step === 1) point.probes.push(before);
      const last = training.step === plan.optimisation.steps;
      const probed =
        plan.probe !== undefined && (last || training.step % plan.probe.everySteps === 0)
          ? await probe(plan.probe)
          : undefined;
      if (probed !== undefined) point.probes.push(probed);
      run.onPoint(point);
      // A probe that showed nothing may be what the job goes back to; and no probe is asked for twice.
      if (probed !== undefined && !last) {
        await save(probed.error === undefined && probed.findings.length === 0 ? { good: true } : {});
      } else if (!last && training.step % plan.checkpointEverySteps === 0) await save();
    }
    const findings = stopped();
    const earlyStop = findings.length === 0 ? undefined : earlyStopOf(findings, training.step, good);
    const final =
      earlyStop === undefined || good === undefined ? await training.state() : await ports.readState(good);
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
      probes,
      earlyStop,
    });
    return {
      checkpoint,
      adapters,
      manifest: await ports.writeManifest(manifestBytes),
      step: training.step,
      earlyStop,
    };
  } finally {
    await engine.close();
  }
}

/** @throws PlumbError FAILED_PRECONDITION (OVER_OPTIMISED) when no probe after the base's was good */
function earlyStopOf(
  findings: readonly OverOptimisationFinding[],
  step: number,
  good: SavedState | undefined,
): EarlyStop {
  const message = findings.map(({ sentence }) => sentence).join(' ');
  if (good === undefined) {
    throw new PlumbError({
      code: 'FAILED_PRECONDITION',
      reason: 'OVER_OPTIMISED',
      message: `the probe at step ${step} shows over-optimisation, and no checkpoint before it is better than the base: ${message} Lower optimisation.learning_rate, strengthen the anchor, or mend the reward`,
      metadata: { step: String(step) },
    });
  }
  return create(EarlyStopSchema, {
    reason: StopReason.OVER_OPTIMISED,
    step,
    keptStep: good.step,
    message: `${message} Kept the checkpoint of step ${good.step}.`,
  });
}

function requireScores({ scoreClips }: TrainingPorts): ScoreClips {
  if (scoreClips !== undefined) return scoreClips;
  throw noRewardService();
}

/** What a job with a probe gets from a trainer that cannot have clips scored. */
export function noRewardService(): PlumbError {
  return failedPrecondition(
    'spec.probe: this trainer knows no Reward API to score the probe; set PLUMB_REWARD_ADDRESS, or leave the probe out',
  );
}

/** The model of a job's last checkpoint, for a job that did not reach its end. */
export async function modelAt(
  point: SavedState,
  plan: JobPlan,
  ports: TrainingPorts,
): Promise<StoredArtifact> {
  const base = await ports.readModel(plan.base);
  return ports.writeModel(trainedModel(base, plan.optimisation, await ports.readState(point), plan.adapters));
}

async function step(
  run: TrainingRun,
  training: Training,
  { examples }: ExampleBatch,
  weightSpread: number | undefined,
  upcoming: (step: number) => ExampleBatch['examples'] | undefined,
): Promise<TrainingProgress> {
  const { optimisation } = run.plan;
  const start = performance.now();
  const following = training.step + 1;
  const metrics = await training.advance(examples, () => upcoming(following));
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
    ...optional('lossScale', 'lossScale'),
    ...optional('skippedSteps', 'skippedSteps'),
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
