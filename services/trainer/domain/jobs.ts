import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { timestampFromMs, timestampMs, timestampNow } from '@bufbuild/protobuf/wkt';
import {
  describeError,
  invalidArgument,
  notFound,
  PlumbError,
  toStatus,
  unavailable,
} from '@plumb/kit/errors';
import { contextFromCarrier, currentCarrier, tracer, withSpan } from '@plumb/kit/telemetry';
import type { Carrier, Logger } from '@plumb/kit/telemetry';
import { ArtifactSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { Artifact } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { JobSchema, JobState } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job, JobSpec, TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { hasEnded, JobFeed } from './job-feed.ts';
import type { JobEvent } from './job-feed.ts';
import { firstDifference, planJob } from './job-spec.ts';
import type { JobPlan } from './job-spec.ts';
import { modelAt, noRewardService, runTraining } from './training-run.ts';
import type { ResumePoint, StoredArtifact, TrainingPorts, TrainingResult } from './training-run.ts';

/** Where jobs are kept. Writes are durable when they resolve. */
export interface JobStore {
  /** @throws PlumbError ALREADY_EXISTS */
  create(job: Job): Promise<void>;
  put(job: Job): Promise<void>;
  get(id: string): Promise<Job | undefined>;
  all(): Promise<Job[]>;
  resumePoint(id: string): Promise<ResumePoint | undefined>;
  putResumePoint(id: string, point: ResumePoint): Promise<void>;
  deleteResumePoint(id: string): Promise<void>;
  /** Of all jobs. */
  resumePoints(): Promise<ResumePoint[]>;
  /** In order of steps, each step once. */
  points(id: string): Promise<TrainingProgress[]>;
  /** Adds points; a step that is there already is replaced. */
  putPoints(id: string, points: readonly TrainingProgress[]): Promise<void>;
}

export interface JobsOptions {
  readonly store: JobStore;
  readonly ports: TrainingPorts;
  readonly checkpointEverySteps: number;
  readonly logger: Logger;
  /** Hears of every step of every job; must not throw. */
  readonly onPoint?: (point: TrainingProgress) => void;
  /** Called when records can no longer be written: the process should end, and begin again from what is written. */
  readonly onFatal: (error: unknown) => void;
}

/** Attempts without a new checkpoint in between before an error that might pass counts as one that does not. */
const attemptsWithoutProgress = 5;
/** Pause before the first new attempt in milliseconds; doubles with each. */
const firstPauseMs = 500;
/** Longest idempotency key, in characters. */
const maxKeyLength = 200;

interface Running {
  readonly id: string;
  readonly controller: AbortController;
}

/**
 * The jobs of a trainer. One runs at a time, the others wait in the order of their creation. Every record is written
 * before anybody is told of it, so that a killed trainer goes on where its records say.
 */
export class Jobs {
  readonly #options: JobsOptions;
  readonly #feeds = new Map<string, JobFeed>();
  readonly #cancelling = new Set<string>();
  readonly #spans = tracer('plumb-trainer');
  /** Traces in which jobs were created, of jobs of this process: a job that is resumed begins a trace of its own. */
  readonly #origins = new Map<string, Carrier>();
  #running: Running | undefined;
  #busy = false;
  #working: Promise<void> = Promise.resolve();
  #stopped = false;
  #newestMs = 0;

  constructor(options: JobsOptions) {
    this.#options = options;
  }

  /** Reads the records and goes on with what was running and waiting. */
  async start(): Promise<void> {
    const { store } = this.#options;
    for (const job of await store.all()) {
      this.#newestMs = Math.max(this.#newestMs, createdMs(job));
      if (job.state === JobState.RUNNING) {
        const resume = await store.resumePoint(job.id);
        const points = (await store.points(job.id)).filter(({ step }) => step <= (resume?.step ?? 0));
        this.#feeds.set(job.id, new JobFeed({ ...job, step: resume?.step ?? 0 }, points));
      } else {
        this.#feeds.set(job.id, new JobFeed(job));
      }
    }
    this.#work();
  }

  /** Takes a checkpoint of the running job and stops; the job goes on at the next start. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#running?.controller.abort(unavailable('the trainer is stopping', { reason: 'SHUTTING_DOWN' }));
    await this.#working;
  }

  /**
   * Creates a job. The same key with an equal spec gives the job that is there.
   * @throws PlumbError INVALID_ARGUMENT with every bad field; ALREADY_EXISTS (IDEMPOTENCY_KEY_REUSED) naming the first
   * field in which the two specs differ
   */
  async create(spec: JobSpec | undefined, idempotencyKey: string): Promise<Job> {
    if (idempotencyKey === '' || idempotencyKey.length > maxKeyLength) {
      throw invalidArgument('idempotency_key', `give a unique string of 1 to ${maxKeyLength} characters`);
    }
    if (spec === undefined) throw invalidArgument('spec', 'is missing', { reason: 'MISSING_FIELD' });
    const plan = planJob(spec, this.#options);
    if (plan.probe !== undefined && this.#options.ports.scoreClips === undefined) throw noRewardService();
    const id = `job-${createHash('sha256').update(idempotencyKey).digest('hex').slice(0, 16)}`;
    const known = this.#feeds.get(id);
    if (known !== undefined) return sameJob(known.job, spec);
    // Strictly later than every other, because the order of creation is the order of the queue.
    this.#newestMs = Math.max(Date.now(), this.#newestMs + 1);
    const job = create(JobSchema, {
      id,
      spec,
      state: JobState.PENDING,
      createTime: timestampFromMs(this.#newestMs),
    });
    try {
      await this.#options.store.create(job);
    } catch (thrown) {
      if (PlumbError.from(thrown).code !== 'ALREADY_EXISTS') throw thrown;
      // Two calls with one key at the same moment: the other one was first.
      const existing = await this.#options.store.get(id);
      if (existing === undefined) throw thrown;
      return sameJob(existing, spec);
    }
    this.#feeds.set(id, new JobFeed(job));
    this.#origins.set(id, currentCarrier());
    this.#work();
    return job;
  }

  /** @throws PlumbError NOT_FOUND (JOB_NOT_FOUND) */
  get(id: string): Job {
    return this.#feed(id).job;
  }

  /** Jobs in the order of their creation. */
  list(): Job[] {
    return [...this.#feeds.values()].map(({ job }) => job).toSorted(byCreation);
  }

  /**
   * A job's points after a step and its states, from the past into the future, until the job has ended.
   * @throws PlumbError NOT_FOUND (JOB_NOT_FOUND)
   */
  async *watch(id: string, afterStep: number, signal: AbortSignal): AsyncGenerator<JobEvent, void, void> {
    const feed = this.#feed(id);
    // Points of jobs that have ended are not kept in memory.
    const past = hasEnded(feed.job.state) && feed.points.length === 0;
    yield* (past ? new JobFeed(feed.job, await this.#options.store.points(id)) : feed).watch(
      afterStep,
      signal,
    );
  }

  /**
   * Stops a job within one step. Resolves when it has ended; a job that had ended already stays as it is.
   * @throws PlumbError NOT_FOUND (JOB_NOT_FOUND)
   */
  async cancel(id: string, signal: AbortSignal): Promise<Job> {
    const feed = this.#feed(id);
    if (hasEnded(feed.job.state)) return feed.job;
    this.#cancelling.add(id);
    if (this.#running?.id === id) {
      this.#running.controller.abort(cancelledByRequest());
      for await (const event of feed.watch(Infinity, signal)) {
        if (event.case === 'job' && hasEnded(event.value.state)) return event.value;
      }
      return feed.job;
    }
    return this.#end(feed, JobState.CANCELLED, {});
  }

  #feed(id: string): JobFeed {
    const feed = this.#feeds.get(id);
    if (feed === undefined)
      throw notFound('job', id, { reason: 'JOB_NOT_FOUND', fix: 'ListJobs shows what there is' });
    return feed;
  }

  /** Sees to it that jobs are worked on, one after the other. */
  #work(): void {
    if (this.#busy || this.#stopped) return;
    this.#busy = true;
    this.#working = this.#workThrough();
  }

  async #workThrough(): Promise<void> {
    try {
      for (let feed = this.#next(); feed !== undefined && !this.#stopped; feed = this.#next())
        await this.#runTraced(feed);
      this.#busy = false;
    } catch (error) {
      // Still busy as far as `#work` can tell: nothing begins again in this process.
      this.#options.onFatal(error);
    }
  }

  /** What was running first, then the oldest that waits. */
  #next(): JobFeed | undefined {
    const open = [...this.#feeds.values()]
      .filter(({ job }) => !hasEnded(job.state) && !this.#cancelling.has(job.id))
      .toSorted((a, b) => byCreation(a.job, b.job));
    return open.find(({ job }) => job.state === JobState.RUNNING) ?? open[0];
  }

  async #runTraced(feed: JobFeed): Promise<void> {
    const { id, spec } = feed.job;
    const parent = contextFromCarrier(this.#origins.get(id) ?? {});
    const attributes = {
      'plumb.job.id': id,
      'plumb.run.id': spec?.runId ?? '',
      'plumb.iteration': spec?.iteration ?? 0,
      'plumb.algorithm': spec?.objective?.algorithm ?? '',
    };
    await withSpan(this.#spans, 'train', { parent, attributes }, () => this.#run(feed));
    this.#origins.delete(id);
  }

  async #run(feed: JobFeed): Promise<void> {
    const { store, logger } = this.#options;
    const { id } = feed.job;
    const controller = new AbortController();
    this.#running = { id, controller };
    let pauseMs = firstPauseMs;
    let attempts = 0;
    let progress = -1;
    try {
      const attempt = new Attempt(feed, this.#options);
      for (;;) {
        try {
          if (feed.job.state !== JobState.RUNNING) {
            await attempt.update({ state: JobState.RUNNING, startTime: timestampNow() });
          }
          const result = await attempt.run(controller.signal);
          await attempt.flush();
          await this.#end(feed, JobState.SUCCEEDED, {
            step: result.step,
            checkpoint: artifactOf(result.checkpoint),
            manifest: artifactOf(result.manifest),
            ...(result.adapters === undefined ? {} : { adapters: artifactOf(result.adapters) }),
            ...(result.earlyStop === undefined ? {} : { earlyStop: result.earlyStop }),
          });
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
          if (this.#stopped) return;
          if (controller.signal.aborted && this.#cancelling.has(id)) {
            await attempt.flush();
            await this.#end(feed, JobState.CANCELLED, {});
            logger.info({ jobId: id, step: feed.job.step }, 'the job was cancelled');
            return;
          }
          const resume = await store.resumePoint(id);
          attempts = (resume?.step ?? 0) > progress ? 1 : attempts + 1;
          progress = resume?.step ?? 0;
          if (error.retryable && attempts < attemptsWithoutProgress) {
            logger.warn(
              { jobId: id, attempts, pauseMs, error: thrown },
              'the job goes on from its last checkpoint',
            );
            await delay(pauseMs, undefined, { signal: controller.signal }).catch(() => undefined);
            pauseMs *= 2;
            continue;
          }
          logger.error(
            { jobId: id, reason: error.reason, error: thrown },
            `the job has failed: ${describeError(thrown)}`,
          );
          await attempt.flush();
          await this.#end(feed, JobState.FAILED, {
            error: toStatus(error),
            ...(await lastGood(resume, error, attempt.plan, this.#options)),
          });
          return;
        }
      }
    } finally {
      this.#running = undefined;
      this.#cancelling.delete(id);
    }
  }

  async #end(feed: JobFeed, state: JobState, fields: Partial<Job>): Promise<Job> {
    const job: Job = { ...feed.job, ...fields, state, endTime: timestampNow() };
    await this.#options.store.put(job);
    await forgetStates(job.id, this.#options);
    feed.setJob(job);
    // Watchers keep the feed with its points; the points of later ones come out of the store.
    this.#feeds.set(job.id, new JobFeed(job));
    this.#cancelling.delete(job.id);
    return job;
  }
}

/** One attempt to bring a job to its end. */
class Attempt {
  readonly plan: JobPlan;
  readonly #feed: JobFeed;
  readonly #options: JobsOptions;
  /** Points that are not in the store yet. */
  #pending: TrainingProgress[] = [];

  constructor(feed: JobFeed, options: JobsOptions) {
    const { spec } = feed.job;
    if (spec === undefined) throw new TypeError(`job ${feed.job.id} has no spec`);
    this.plan = planJob(spec, options);
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
        plan: this.plan,
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
          this.#options.onPoint?.(point);
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
async function forgetStates(id: string, options: JobsOptions): Promise<void> {
  const resume = await options.store.resumePoint(id);
  if (resume === undefined) return;
  await options.store.deleteResumePoint(id);
  await removeStates(resume, options);
}

/** Removes the states that a resume point named, except those that one in the store still names. */
async function removeStates(
  superseded: ResumePoint | undefined,
  { store, ports, logger }: JobsOptions,
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
  { ports, logger }: JobsOptions,
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

function sameJob(job: Job, spec: JobSpec): Job {
  const difference = job.spec === undefined ? undefined : firstDifference(job.spec, spec);
  if (difference === undefined) return job;
  const { field, before, after } = difference;
  throw new PlumbError({
    code: 'ALREADY_EXISTS',
    reason: 'IDEMPOTENCY_KEY_REUSED',
    message: `idempotency_key: job ${job.id} was made with this key and another spec: ${field} was ${before} and is now ${after}; use a new key for a new job`,
    fieldViolations: [{ field, description: `was ${before} and is now ${after}` }],
    metadata: { job: job.id },
  });
}

function createdMs(job: Job): number {
  return job.createTime === undefined ? 0 : timestampMs(job.createTime);
}

function byCreation(a: Job, b: Job): number {
  return createdMs(a) - createdMs(b) || (a.id < b.id ? -1 : 1);
}

function cancelledByRequest(): PlumbError {
  return new PlumbError({
    code: 'CANCELLED',
    reason: 'CANCELLED',
    message: 'the job was cancelled by request',
  });
}
