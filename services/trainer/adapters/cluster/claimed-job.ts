import type { Bus } from '@plumb/kit/bus';
import { messageCodec } from '@plumb/kit/bus';
import { notFound, PlumbError } from '@plumb/kit/errors';
import { JobSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { hasEnded } from '../../domain/job-feed.ts';
import { cancelledByRequest } from '../../domain/job-runner.ts';
import type { JobStore } from '../../domain/job-store.ts';
import { jobsBucket } from '../job-store.ts';

/** A job that this process alone may write. */
export interface ClaimedJob {
  readonly job: Job;
  /** Refuses every write of the job's record (JOB_CONFLICT) once another process has written it. */
  readonly store: JobStore;
  /** Aborts with CANCELLED when somebody else has recorded the job's end. */
  readonly signal: AbortSignal;
  close(): void;
}

/**
 * Claims a job for this process: whoever had it before can no longer write its record. Two pods of one job, of which one was
 * cut off and comes back, so cannot mix what they do.
 *
 * @param backend the backend that started this process
 * @returns undefined where there is nothing to do: the job has ended, or runs elsewhere now
 * @throws PlumbError NOT_FOUND (JOB_NOT_FOUND)
 */
export async function claimJob(
  bus: Bus,
  store: JobStore,
  id: string,
  backend: string,
): Promise<ClaimedJob | undefined> {
  const records = await bus.keyValue(jobsBucket, messageCodec(JobSchema), { deadlineMs: 120_000 });
  const key = `job.${id}`;
  let entry = await records.get(key);
  if (entry === undefined) {
    throw notFound('job', id, {
      reason: 'JOB_NOT_FOUND',
      fix: 'the trainer makes jobs; this process only runs them',
    });
  }
  const job = entry.value;
  if (hasEnded(job.state) || job.placement?.backend !== backend) return undefined;
  let revision: number;
  for (;;) {
    try {
      revision = await records.update(key, job, entry.revision);
      break;
    } catch (thrown) {
      if (PlumbError.from(thrown).code !== 'ABORTED') throw thrown;
      entry = await records.get(key);
      if (entry === undefined || hasEnded(entry.value.state)) return undefined;
    }
  }
  const write = async (written: Job): Promise<Job | undefined> => {
    try {
      revision = await records.update(key, written, revision);
      return undefined;
    } catch (thrown) {
      if (PlumbError.from(thrown).code !== 'ABORTED') throw thrown;
      const standing = (await records.get(key))?.value;
      if (standing !== undefined && hasEnded(standing.state)) return standing;
      throw new PlumbError({
        code: 'FAILED_PRECONDITION',
        reason: 'JOB_CONFLICT',
        message: `another process has taken job ${id} over`,
        cause: thrown,
      });
    }
  };

  const closing = new AbortController();
  const gone = new AbortController();
  let ending = false;
  const watch = async (): Promise<void> => {
    for await (const { value } of records.watch({ key, signal: closing.signal })) {
      if (!ending && value !== undefined && hasEnded(value.state)) gone.abort(cancelledByRequest());
    }
  };
  watch().catch((error: unknown) => {
    gone.abort(PlumbError.from(error));
  });

  return {
    job,
    signal: gone.signal,
    store: {
      ...store,
      async put(written) {
        const standing = await write(written);
        // What ended it aborts the signal too; this attempt is over.
        if (standing !== undefined) throw cancelledByRequest();
      },
      async end(written) {
        ending = true;
        return (await write(written)) ?? written;
      },
    },
    close: () => {
      closing.abort();
    },
  };
}
