import { setTimeout as delay } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { PlumbError } from '@plumb/kit/errors';
import { currentCarrier } from '@plumb/kit/telemetry';
import { JobPlacementSchema, JobState } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job, TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { clusterStatus } from '../../domain/cluster/cluster-status.ts';
import type { ClusterPhase, ClusterStatus, ObservedJob } from '../../domain/cluster/cluster-status.ts';
import { labels, manager, objectName } from '../../domain/cluster/job-name.ts';
import { hasEnded } from '../../domain/job-feed.ts';
import type { JobFeed } from '../../domain/job-feed.ts';
import { endJob, failJob, wasCancelled } from '../../domain/job-runner.ts';
import type { RunnerOptions } from '../../domain/job-runner.ts';
import type { BackendName, TrainingBackend } from '../../domain/training-backend.ts';
import type { ClusterObjects } from './cluster-objects.ts';
import type { JobRecords } from './job-records.ts';

export interface ClusterBackendOptions extends RunnerOptions {
  readonly name: Exclude<BackendName, 'local'>;
  readonly namespace: string;
  readonly instance: string;
  readonly queue: string | undefined;
  readonly objects: ClusterObjects;
  readonly records: JobRecords;
  /** An image that cannot be had for this long fails the job, in milliseconds. */
  readonly imageDeadlineMs: number;
}

/** Jobs that are followed at a time; the cluster's own queue holds them, not ours. */
const concurrency = 1000;
/** Pause before the first new attempt to reach the API server, in milliseconds; doubles up to a minute. */
const firstPauseMs = 500;
const longestPauseMs = 60_000;
/** Where waiting for changes is not enough, the job is looked at again after this long, in milliseconds. */
const lookAgainMs = 5000;
const timed: ReadonlySet<ClusterPhase> = new Set([
  'image-error',
  'suspended',
  'preempted',
  'evicted',
  'pending',
]);

/**
 * Training in pods of a cluster. The pods run job.ts, which writes the job's record, checkpoints and points itself; this side
 * makes the object, follows both, and records the ends that no pod can: an image that cannot be had, a deadline, an object that
 * somebody deleted.
 */
export function clusterBackend(options: ClusterBackendOptions): TrainingBackend {
  return {
    name: options.name,
    concurrency,
    run: (feed, signal) => new ClusterRun(feed, signal, options).run(),
  };
}

class ClusterRun {
  readonly #feed: JobFeed;
  readonly #signal: AbortSignal;
  readonly #options: ClusterBackendOptions;
  readonly #id: string;
  readonly #object: string;
  /** What the pods recorded as the end. */
  #end: Job | undefined;
  #wake = Promise.withResolvers<void>();
  #imageErrorSinceMs: number | undefined;

  constructor(feed: JobFeed, signal: AbortSignal, options: ClusterBackendOptions) {
    this.#feed = feed;
    this.#signal = signal;
    this.#options = options;
    this.#id = feed.job.id;
    this.#object = objectName(options.instance, this.#id);
  }

  async run(): Promise<void> {
    const { records, logger } = this.#options;
    const stop = new AbortController();
    const wake = (): void => {
      this.#wake.resolve();
      this.#wake = Promise.withResolvers<void>();
    };
    this.#signal.addEventListener('abort', wake, { once: true });
    const following = records.follow(
      this.#id,
      {
        job: (job) => {
          this.#take(job);
          wake();
        },
        points: (points) => {
          this.#addPoints(points);
        },
      },
      stop.signal,
    );
    try {
      await Promise.race([this.#follow(), following]);
    } finally {
      stop.abort();
      this.#signal.removeEventListener('abort', wake);
      await following.catch((error: unknown) => {
        logger.warn({ error, jobId: this.#id }, 'following the record of a job ended badly');
      });
    }
  }

  async #follow(): Promise<void> {
    const { objects, logger } = this.#options;
    const uid = await this.#ensure();
    if (uid === undefined) return;
    let seen = false;
    for (;;) {
      // Before anything is looked at: what changes meanwhile is looked at next.
      const changes = [objects.jobs.changed(), objects.pods.changed(), this.#wake.promise];
      if (await this.#isOver(uid)) return;
      const job = this.#own(uid);
      seen ||= job !== undefined;
      const status = await this.#status(job, uid, seen);
      if (status !== undefined) {
        this.#place(status);
        const error = await this.#finalError(status);
        if (error !== undefined) {
          logger.error(
            { jobId: this.#id, object: this.#object, error },
            `the job has failed: ${error.message}`,
          );
          await failJob(this.#feed, error, this.#options);
          if (status.phase === 'image-error') await this.#remove(uid);
          return;
        }
        if (this.#end !== undefined) continue;
      }
      const timer = new AbortController();
      await Promise.race([
        ...changes,
        ...(status === undefined || timed.has(status.phase)
          ? [delay(lookAgainMs, undefined, { signal: timer.signal }).catch(() => undefined)]
          : []),
      ]);
      timer.abort();
    }
  }

  /** True when there is nothing more to do: the end is recorded, or the trainer stops. */
  async #isOver(uid: string): Promise<boolean> {
    if (this.#end !== undefined) {
      await this.#conclude(this.#end);
      return true;
    }
    if (!this.#signal.aborted) return false;
    if (wasCancelled(this.#signal)) {
      await endJob(this.#feed, JobState.CANCELLED, {}, this.#options);
      this.#options.logger.info({ jobId: this.#id, object: this.#object }, 'the job was cancelled');
      await this.#remove(uid);
    }
    return true;
  }

  /** Makes the object, or finds the one that an earlier trainer made; gives its uid, undefined when it is over before. */
  async #ensure(): Promise<string | undefined> {
    const { objects, logger } = this.#options;
    const { spec } = this.#feed.job;
    const identity = {
      jobId: this.#id,
      runId: spec?.runId ?? '',
      iteration: spec?.iteration ?? 0,
      carrier: currentCarrier(),
    };
    let pauseMs = firstPauseMs;
    for (;;) {
      if (this.#end !== undefined) {
        await this.#conclude(this.#end);
        return undefined;
      }
      if (this.#signal.aborted) {
        if (wasCancelled(this.#signal)) await endJob(this.#feed, JobState.CANCELLED, {}, this.#options);
        return undefined;
      }
      try {
        const standing = await objects.read(this.#object);
        if (standing !== undefined) {
          const uid = uidOf(standing);
          if (!this.#isOwn(standing)) throw this.#notOurs();
          logger.info({ jobId: this.#id, object: this.#object, uid }, 'the job goes on in the cluster');
          return uid;
        }
        const made = await objects.create(identity);
        logger.info(
          { jobId: this.#id, object: this.#object, uid: uidOf(made) },
          'the job was handed to the cluster',
        );
        return uidOf(made);
      } catch (thrown) {
        const error = PlumbError.from(thrown);
        // Somebody made it between the two calls: read it again.
        if (error.code === 'ALREADY_EXISTS') continue;
        if (!error.retryable && error.code !== 'UNKNOWN') {
          logger.error(
            { jobId: this.#id, error },
            `the job could not be handed to the cluster: ${error.message}`,
          );
          await failJob(this.#feed, error, this.#options);
          return undefined;
        }
        logger.warn(
          { jobId: this.#id, error, pauseMs },
          'the job could not be handed to the cluster; trying again',
        );
        this.#place({ phase: 'pending', message: error.message });
        await this.#pause(pauseMs);
        pauseMs = Math.min(pauseMs * 2, longestPauseMs);
      }
    }
  }

  async #status(
    job: ObservedJob | undefined,
    uid: string,
    seen: boolean,
  ): Promise<ClusterStatus | undefined> {
    const { objects, queue } = this.#options;
    let existed = seen;
    if (job === undefined && !seen) {
      // Not observed yet, or made and deleted in between: asked for by name.
      try {
        const standing = await objects.read(this.#object);
        existed = standing === undefined || uidOf(standing) !== uid;
      } catch {
        return undefined;
      }
      if (!existed) return undefined;
    }
    const pods = [...objects.pods.objects.values()].filter(
      ({ metadata }) => metadata?.labels?.[labels.jobId] === this.#id,
    );
    const workload = job?.spec?.suspend === true ? await objects.workload(uid) : undefined;
    return clusterStatus(job, pods, { existed, queue, workload });
  }

  /** Why the job will never end by itself; the pods' own record goes before whatever the cluster says. */
  async #finalError(status: ClusterStatus): Promise<PlumbError | undefined> {
    const { store, imageDeadlineMs } = this.#options;
    if (status.phase === 'image-error') this.#imageErrorSinceMs ??= performance.now();
    else this.#imageErrorSinceMs = undefined;
    const since = this.#imageErrorSinceMs;
    const stuck = since !== undefined && performance.now() - since >= imageDeadlineMs;
    if (status.error === undefined && status.phase !== 'complete' && !stuck) return undefined;
    const record = await store.get(this.#id);
    if (record !== undefined) this.#take(record);
    if (this.#end !== undefined) return undefined;
    if (status.error !== undefined) return status.error;
    return new PlumbError({
      code: 'FAILED_PRECONDITION',
      reason: 'JOB_FAILED',
      message: stuck
        ? status.message
        : `the pods of ${this.#object} finished without recording how; their logs may tell`,
    });
  }

  /** The observed object, if it is the very one that we made. */
  #own(uid: string): ObservedJob | undefined {
    const job = this.#options.objects.jobs.objects.get(this.#object);
    return job !== undefined && uidOf(job) === uid ? job : undefined;
  }

  #isOwn({ metadata }: ObservedJob): boolean {
    const found = metadata?.labels ?? {};
    return (
      found[labels.managedBy] === manager &&
      found[labels.trainer] === this.#options.instance &&
      found[labels.jobId] === this.#id
    );
  }

  #notOurs(): PlumbError {
    return new PlumbError({
      code: 'FAILED_PRECONDITION',
      reason: 'JOB_CONFLICT',
      message: `${this.#options.objects.kind} ${this.#object} exists in namespace ${this.#options.namespace} and was not made by this trainer; delete it, or set PLUMB_TRAINING_INSTANCE to another name`,
    });
  }

  /** Deletes what we made; for as long as it takes while the API server is away. */
  async #remove(uid: string): Promise<void> {
    const { objects, logger } = this.#options;
    let pauseMs = firstPauseMs;
    for (;;) {
      try {
        await objects.remove(this.#object, uid);
        return;
      } catch (thrown) {
        const error = PlumbError.from(thrown);
        logger.warn(
          { jobId: this.#id, object: this.#object, error },
          'the object of a job that ended is still there',
        );
        // Its pods see the job's record and end by themselves.
        if (!error.retryable) return;
        await delay(pauseMs);
        pauseMs *= 2;
        if (pauseMs > longestPauseMs) return;
      }
    }
  }

  /** Takes over what the pods wrote; an end waits until the points are there. */
  #take(job: Job): void {
    if (hasEnded(job.state)) {
      this.#end = job;
      return;
    }
    if (hasEnded(this.#feed.job.state)) return;
    const { placement, step } = this.#feed.job;
    this.#feed.setJob({
      ...job,
      step: Math.max(step, job.step),
      ...(placement === undefined ? {} : { placement }),
    });
  }

  #addPoints(points: readonly TrainingProgress[]): void {
    let last = this.#feed.points.at(-1)?.step ?? 0;
    for (const point of points) {
      // Points that were made a second time, after a pod was lost, are the same bits.
      if (point.step <= last) continue;
      this.#feed.add(point);
      last = point.step;
    }
    if (last > this.#feed.job.step && !hasEnded(this.#feed.job.state)) {
      this.#feed.setJob({ ...this.#feed.job, step: last });
    }
  }

  async #conclude(job: Job): Promise<void> {
    this.#addPoints(await this.#options.store.points(this.#id));
    const { placement } = this.#feed.job;
    this.#feed.setJob({ ...job, ...(placement === undefined ? {} : { placement }) });
  }

  #place({ phase, message }: Pick<ClusterStatus, 'phase' | 'message'>): void {
    const { name, namespace } = this.#options;
    const known = this.#feed.job.placement;
    if (hasEnded(this.#feed.job.state) || (known?.phase === phase && known.message === message)) return;
    this.#options.logger.info({ jobId: this.#id, object: this.#object, phase }, message);
    this.#feed.setJob({
      ...this.#feed.job,
      placement: create(JobPlacementSchema, {
        backend: name,
        object: `${namespace}/${this.#object}`,
        phase,
        message,
      }),
    });
  }

  async #pause(ms: number): Promise<void> {
    const timer = new AbortController();
    await Promise.race([
      delay(ms, undefined, { signal: timer.signal }).catch(() => undefined),
      this.#wake.promise,
    ]);
    timer.abort();
  }
}

function uidOf({ metadata }: ObservedJob): string {
  return metadata?.uid ?? '';
}
