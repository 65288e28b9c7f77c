import { createHash } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { timestampFromMs, timestampMs, timestampNow } from '@bufbuild/protobuf/wkt';
import { invalidArgument, notFound, PlumbError, unavailable } from '@plumb/kit/errors';
import { contextFromCarrier, currentCarrier, tracer, withSpan, withWork } from '@plumb/kit/telemetry';
import type { Carrier } from '@plumb/kit/telemetry';
import { JobPlacementSchema, JobSchema, JobState } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job, JobSpec } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { hasEnded, JobFeed } from './job-feed.ts';
import type { JobEvent } from './job-feed.ts';
import { cancelledByRequest } from './job-runner.ts';
import { firstDifference, planJob } from './job-spec.ts';
import type { JobStore } from './job-store.ts';
import type { TrainingBackend } from './training-backend.ts';
import { noRewardService } from './training-run.ts';

export interface JobsOptions {
  readonly store: JobStore;
  /** Where jobs run. */
  readonly backend: TrainingBackend;
  /** Whether probes can be scored; jobs with a probe are refused otherwise. */
  readonly scoresProbes: boolean;
  readonly checkpointEverySteps: number;
  /** Called when records can no longer be written: the process should end, and begin again from what is written. */
  readonly onFatal: (error: unknown) => void;
}

/** Longest idempotency key, in characters. */
const maxKeyLength = 200;

interface Running {
  readonly controller: AbortController;
  /** Resolves when the backend has let go of the job. */
  readonly done: Promise<void>;
}

/**
 * The jobs of a trainer. As many run as the backend takes, the others wait in the order of their creation. Every record is
 * written before anybody is told of it, so that a killed trainer goes on where its records say.
 */
export class Jobs {
  readonly #options: JobsOptions;
  readonly #feeds = new Map<string, JobFeed>();
  readonly #spans = tracer('plumb-trainer');
  /** Traces in which jobs were created, of jobs of this process: a job that is resumed begins a trace of its own. */
  readonly #origins = new Map<string, Carrier>();
  readonly #running = new Map<string, Running>();
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

  /** Lets go of the jobs that run, with a checkpoint of those that run here; they go on at the next start. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const { controller } of this.#running.values()) {
      controller.abort(unavailable('the trainer is stopping', { reason: 'SHUTTING_DOWN' }));
    }
    await Promise.all([...this.#running.values()].map(({ done }) => done));
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
    if (plan.probe !== undefined && !this.#options.scoresProbes) throw noRewardService();
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
    const running = this.#running.get(id);
    if (running === undefined) {
      const job = await this.#options.store.end({
        ...feed.job,
        state: JobState.CANCELLED,
        endTime: timestampNow(),
      });
      this.#conclude(feed, job);
      return job;
    }
    running.controller.abort(cancelledByRequest());
    for await (const event of feed.watch(Infinity, signal)) {
      if (event.case === 'job' && hasEnded(event.value.state)) return event.value;
    }
    return feed.job;
  }

  #feed(id: string): JobFeed {
    const feed = this.#feeds.get(id);
    if (feed === undefined)
      throw notFound('job', id, { reason: 'JOB_NOT_FOUND', fix: 'ListJobs shows what there is' });
    return feed;
  }

  /** Sees to it that as many jobs run as the backend takes. */
  #work(): void {
    while (!this.#stopped && this.#running.size < this.#options.backend.concurrency) {
      const feed = this.#next();
      if (feed === undefined) return;
      const controller = new AbortController();
      const done = this.#runTraced(feed, controller.signal);
      this.#running.set(feed.job.id, { controller, done });
    }
  }

  /** What was running first, then the oldest that waits. */
  #next(): JobFeed | undefined {
    const open = [...this.#feeds.values()]
      .filter(({ job }) => !hasEnded(job.state) && !this.#running.has(job.id))
      .toSorted((a, b) => byCreation(a.job, b.job));
    return open.find(({ job }) => job.state === JobState.RUNNING) ?? open[0];
  }

  async #runTraced(feed: JobFeed, signal: AbortSignal): Promise<void> {
    const { id, spec } = feed.job;
    const { backend } = this.#options;
    const parent = withWork(
      { jobId: id, runId: spec?.runId, iteration: spec?.iteration },
      contextFromCarrier(this.#origins.get(id) ?? {}),
    );
    const attributes = {
      'plumb.job.id': id,
      'plumb.run.id': spec?.runId ?? '',
      'plumb.iteration': spec?.iteration ?? 0,
      'plumb.algorithm': spec?.objective?.algorithm ?? '',
      'plumb.training.backend': backend.name,
    };
    try {
      await withSpan(this.#spans, 'train', { parent, attributes }, async () => {
        if (feed.job.placement?.backend !== backend.name) {
          // Written before anything is made elsewhere; a process of another backend that still runs it sees that it is not its own.
          const placement = create(JobPlacementSchema, { backend: backend.name });
          const standing = await this.#options.store.place(feed.job, placement);
          if (hasEnded(standing.state)) {
            feed.setJob(standing);
            return;
          }
          feed.setJob({ ...feed.job, placement });
        }
        await backend.run(feed, signal);
      });
    } catch (error) {
      // Still running as far as `#work` can tell: nothing begins again in this process.
      this.#stopped = true;
      this.#options.onFatal(error);
      return;
    }
    this.#running.delete(id);
    if (hasEnded(feed.job.state)) this.#conclude(feed, feed.job);
    this.#work();
  }

  #conclude(feed: JobFeed, job: Job): void {
    if (!hasEnded(feed.job.state)) feed.setJob(job);
    // Watchers keep the feed with its points; the points of later ones come out of the store.
    this.#feeds.set(job.id, new JobFeed(job));
    this.#origins.delete(job.id);
  }
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
