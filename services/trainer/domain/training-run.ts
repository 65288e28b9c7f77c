import { learningRateAt } from '@plumb/diffusion';
import type { OverOptimisationFinding } from '@plumb/evaluation';
import { failedPrecondition, PlumbError } from '@plumb/kit/errors';
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
import { numericSeed } from './job-spec.ts';
import type { ArtifactReference, JobPlan } from './job-spec.ts';
import { labelledSamples, summarise, usedSampleIds } from './labelled-samples.ts';
import type { ProbePlan } from './probe-spec.ts';
import { checkHeldOut, judgeProbes, runProbe } from './probe.ts';
import type { ScoreClips } from './probe.ts';
import type { Course, Trainee } from './trainee.ts';

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
   * The model that a plan trains; nothing is written.
   * @throws PlumbError NOT_FOUND or DATA_LOSS naming the version; INVALID_ARGUMENT naming the field of the spec for a model that
   * cannot be trained so
   */
  openTrainee(plan: JobPlan): Promise<Trainee>;
  readState(point: SavedState): Promise<TrainingState>;
  writeState(state: TrainingState, threads: number): Promise<ResumePoint>;
  /** Removes a stored state that no resume point names any more. */
  removeState(state: StoredArtifact): Promise<void>;
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
  /** The model: of the built-in one the whole, adapters merged; of a pipeline a reference to it and to its adapters. */
  readonly checkpoint: StoredArtifact;
  /** Undefined where all weights were trained. */
  readonly adapters: StoredArtifact | undefined;
  readonly manifest: StoredArtifact;
  /** Steps done. */
  readonly step: number;
  /** Undefined where the job took all its steps, or its last probe showed nothing. */
  readonly earlyStop: EarlyStop | undefined;
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
  const trainee = await ports.openTrainee(plan);
  const used = new Set(usedSampleIds(set));
  const prepared = await trainee.prepare({
    set,
    samples: manifest.samples.filter(({ sampleId }) => used.has(sampleId)),
    captions: new Map(manifest.samples.map(({ promptId, prompt }) => [promptId, prompt])),
    signal,
  });
  const state = resume === undefined ? undefined : await ports.readState(resume);
  const threads = resume?.threads ?? ports.threads;
  const guard = divergenceGuard({ maxAnchorDistance: plan.maxAnchorDistance });
  for (const point of run.points) guard.check(point);

  const engine = await ports.openEngine(threads);
  try {
    const training = await prepared.open(engine, state);
    let saved = training.step;
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
        openSampler: (batch) => trainee.openSampler(engine, state, batch),
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
      const point = await step(run, training, prepared.weightSpread);
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
    const { checkpoint, adapters } = await trainee.store(final);
    const manifestBytes = jobManifest({
      plan,
      set,
      threads,
      trainedBy: trainee.trainedBy,
      result: checkpoint.sha256,
      adapters: adapters?.sha256,
      parameterCount: trainee.parameterCount,
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
  const trainee = await ports.openTrainee(plan);
  return (await trainee.store(await ports.readState(point))).checkpoint;
}

async function step(
  run: TrainingRun,
  training: Course,
  weightSpread: number | undefined,
): Promise<TrainingProgress> {
  const { optimisation } = run.plan;
  const start = performance.now();
  const metrics = await training.advance();
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
