import { setTimeout as delay } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { timestampNow } from '@bufbuild/protobuf/wkt';
import { describeError, PlumbError, toStatus } from '@plumb/kit/errors';
import type { Logger } from '@plumb/kit/telemetry';
import { ArtifactSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { Artifact } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { JobState } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job, TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { JobFeed } from './job-feed.ts';
import { planJob } from './job-spec.ts';
import type { JobPlan } from './job-spec.ts';
import type { JobStore } from './job-store.ts';
import { modelAt, runTraining } from './training-run.ts';
import type { ResumePoint, StoredArtifact, TrainingPorts, TrainingResult } from './training-run.ts';

export interface RunnerOptions {
  readonly store: JobStore;
  readonly ports: TrainingPorts;
  readonly checkpointEverySteps: number;
  readonly logger: Logger;
  /** Hears of every step of every job, with the job's run (empty for none); must not throw. */
  readonly onPoint?: ((point: TrainingProgress, runId: string) => void) | undefined;
  /**
   * What becomes of a job after errors that might pass, again and again at the same place: `fail` records that it has
   * failed; `leave` throws the last of them and leaves the job as it is, for another process to go on with.
   */
  readonly whenStuck?: 'fail' | 'leave';
}

/** Attempts without a new checkpoint in between before an error that might pass counts as one that does not. */
const attemptsWithoutProgress = 5;
/** Pause before the first new attempt in milliseconds; doubles with each. */
const firstPauseMs = 500;

/** Why the signal of a job that somebody cancels aborts. */
export function cancelledByRequest(): PlumbError {
  return new PlumbError({
    code: 'CANCELLED',
    reason: 'CANCELLED',
    message: 'the job was cancelled by request',
  });
}

/** True for the reason of {@link cancelledByRequest}: the job is to end. Any other leaves it for the next process. */
export function wasCancelled(signal: AbortSignal): boolean {
  return signal.aborted && PlumbError.from(signal.reason).reason === 'CANCELLED';
}

/**
 * Brings a job to its end in this process, through errors that pass, and records it. When the signal aborts with the reason
 * SHUTTING_DOWN it takes a checkpoint and leaves the job as it is; when it aborts with CANCELLED the job ends so.
 *
 * @throws PlumbError what the store throws; JOB_CONFLICT when another process has taken the job over; with `whenStuck:
 * 'leave'` the error that it is stuck at
 */
export async function runJob(feed: JobFeed, signal: AbortSignal, options: RunnerOptions): Promise<void> {
  const { store, logger } = options;
  const { id } = feed.job;
  let pauseMs = firstPauseMs;
  let attempts = 0;
  let progress = -1;
  const attempt = new Attempt(feed, options);
  for (;;) {
    try {
      if (feed.job.state !== JobState.RUNNING) {
        await attempt.update({ state: JobState.RUNNING, startTime: timestampNow() });
      }
      const result = await attempt.run(signal);
      await attempt.flush();
      await endJob(
        feed,
        JobState.SUCCEEDED,
        {
          step: result.step,
          checkpoint: artifactOf(result.checkpoint),
          manifest: artifactOf(result.manifest),
          ...(result.adapters === undefined ? {} : { adapters: artifactOf(result.adapters) }),
          ...(result.earlyStop === undefined ? {} : { earlyStop: result.earlyStop }),
        },
        options,
      );
      logger.info(
        {
          jobId: id,
          checkpoint: result.checkpoint.sha256,
          ...(result.earlyStop === undefined ? {} : { stoppedEarly: result.earlyStop.message }),
        },
        'the job has succeeded',
      );
      return;
    } catch (thrown) {
      const error = PlumbError.from(thrown);
      if (error.reason === 'JOB_CONFLICT') throw error;
      if (wasCancelled(signal)) {
        await attempt.flush();
        await endJob(feed, JobState.CANCELLED, {}, options);
        logger.info({ jobId: id, step: feed.job.step }, 'the job was cancelled');
        return;
      }
      if (signal.aborted) return;
      const resume = await store.resumePoint(id);
      attempts = (resume?.step ?? 0) > progress ? 1 : attempts + 1;
      progress = resume?.step ?? 0;
      if (error.retryable && attempts < attemptsWithoutProgress) {
        logger.warn(
          { jobId: id, attempts, pauseMs, error: thrown },
          'the job goes on from its last checkpoint',
        );
        await delay(pauseMs, undefined, { signal }).catch(() => undefined);
        pauseMs *= 2;
        continue;
      }
      if (error.retryable && options.whenStuck === 'leave') throw error;
      logger.error(
        { jobId: id, reason: error.reason, error: thrown },
        `the job has failed: ${describeError(thrown)}`,
      );
      await attempt.flush();
      await failJob(feed, error, options);
      return;
    }
  }
}

/** Records that a job has failed, with the model of its last checkpoint where it is worth keeping. */
export async function failJob(feed: JobFeed, error: PlumbError, options: RunnerOptions): Promise<void> {
  const { store, ports, logger } = options;
  const { id, spec } = feed.job;
  const resume = await store.resumePoint(id);
  const fields =
    spec === undefined || resume === undefined
      ? {}
      : await lastGood(resume, error, planJob(spec, options), { ports, logger });
  await endJob(feed, JobState.FAILED, { error: toStatus(error), ...fields }, options);
}

/** Records the end of a job, unless another process has recorded one before; the feed then has that one. */
export async function endJob(
  feed: JobFeed,
  state: JobState,
  fields: Partial<Job>,
  options: RunnerOptions,
): Promise<void> {
  const job = await options.store.end({ ...feed.job, ...fields, state, endTime: timestampNow() });
  await forgetStates(job.id, options);
  feed.setJob(job);
}

/** One attempt to bring a job to its end. */
class Attempt {
  readonly #plan: JobPlan;
  readonly #feed: JobFeed;
  readonly #options: RunnerOptions;
  /** Points that are not in the store yet. */
  #pending: TrainingProgress[] = [];

  constructor(feed: JobFeed, options: RunnerOptions) {
    const { spec } = feed.job;
    if (spec === undefined) throw new TypeError(`job ${feed.job.id} has no spec`);
    this.#plan = planJob(spec, options);
    this.#feed = feed;
    this.#options = options;
  }

  async update(fields: Partial<Job>): Promise<void> {
    const job: Job = { ...this.#feed.job, ...fields };
    await this.#options.store.put(job);
    this.#feed.setJob(job);
  }

  async run(signal: AbortSignal): Promise<TrainingResult> {
    const { store, ports } = this.#options;
    const { id } = this.#feed.job;
    const resume = await store.resumePoint(id);
    this.#pending = [];
    this.#feed.rewind(resume?.step ?? 0);
    const probes = this.#feed.points.flatMap((point) => point.probes);
    this.#feed.setJob({ ...this.#feed.job, probes });
    let current = resume;
    return runTraining(
      {
        jobId: id,
        runId: this.#feed.job.spec?.runId ?? '',
        plan: this.#plan,
        signal,
        resume,
        points: [...this.#feed.points],
        onSummary: (dataSetSummary) => {
          this.#feed.setJob({ ...this.#feed.job, dataSetSummary });
        },
        onPoint: (point) => {
          this.#pending.push(point);
          const known = this.#feed.job.probes;
          this.#feed.setJob({
            ...this.#feed.job,
            step: point.step,
            ...(point.probes.length === 0 ? {} : { probes: [...known, ...point.probes] }),
          });
          this.#feed.add(point);
          this.#options.onPoint?.(point, this.#feed.job.spec?.runId ?? '');
        },
        onCheckpoint: async (point) => {
          // The points first: a checkpoint without its points would leave a gap in the curve.
          await this.flush();
          await store.putResumePoint(id, point);
          await this.update({ step: point.step });
          await removeStates(current, this.#options);
          current = point;
        },
      },
      ports,
    );
  }

  /** Stores the points that are not stored yet. */
  async flush(): Promise<void> {
    const points = this.#pending;
    if (points.length === 0) return;
    await this.#options.store.putPoints(this.#feed.job.id, points);
    this.#pending = this.#pending.slice(points.length);
  }
}

/** The states of a job that has ended: nobody goes on from them. */
async function forgetStates(id: string, options: RunnerOptions): Promise<void> {
  const resume = await options.store.resumePoint(id);
  if (resume === undefined) return;
  await options.store.deleteResumePoint(id);
  await removeStates(resume, options);
}

/** Removes the states that a resume point named, except those that one in the store still names. */
async function removeStates(
  superseded: ResumePoint | undefined,
  { store, ports, logger }: RunnerOptions,
): Promise<void> {
  if (superseded === undefined) return;
  // Jobs with equal specs have equal states, which are stored once.
  const needed = new Set((await store.resumePoints()).flatMap(statesOf).map(({ sha256 }) => sha256));
  for (const state of statesOf(superseded)) {
    if (needed.has(state.sha256)) continue;
    try {
      await ports.removeState(state);
    } catch (error) {
      // The job does not need it gone; it only takes space.
      logger.warn({ error, uri: state.uri }, 'a superseded training state could not be removed');
    }
  }
}

function statesOf({ state, good }: ResumePoint): StoredArtifact[] {
  return good === undefined ? [state] : [state, good.state];
}

/** The model of the last checkpoint of a job that failed, if it had one that is worth keeping. */
async function lastGood(
  resume: ResumePoint | undefined,
  { reason }: PlumbError,
  plan: JobPlan,
  { ports, logger }: Pick<RunnerOptions, 'ports' | 'logger'>,
): Promise<Partial<Job>> {
  if (resume === undefined || reason === 'OVER_OPTIMISED') return {};
  try {
    return { checkpoint: artifactOf(await modelAt(resume, plan, ports)) };
  } catch (error) {
    // The job's own error matters more than that its leftovers cannot be had.
    logger.error({ error }, 'the last checkpoint of a failed job cannot be read');
    return {};
  }
}

function artifactOf({ uri, sha256, mediaType, size }: StoredArtifact): Artifact {
  return create(ArtifactSchema, { uri, sha256, mediaType, sizeBytes: BigInt(size) });
}
