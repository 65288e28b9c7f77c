import { describeError } from '@plumb/kit/errors';
import { findLatestJob } from '../adapters/ledger/iterations.ts';
import type { RunRow } from '../adapters/ledger/runs.ts';
import { loopLogger } from './context.ts';
import type { LoopContext } from './context.ts';

/** The trainer gets this long to take note that a job is cancelled, in milliseconds. */
const cancelJobMs = 10_000;

/** Stops the run's training job. A trainer that cannot be reached is not worth keeping a run for: the log tells. */
export async function cancelTraining(loop: LoopContext, row: RunRow): Promise<void> {
  const job = await findLatestJob(loop.database, { runId: row.id, iteration: row.iteration });
  if (job?.state !== 'running') return;
  try {
    await loop.trainer.cancelJob(job.id, AbortSignal.timeout(cancelJobMs));
  } catch (thrown) {
    loopLogger.error(
      { runId: row.id, jobId: job.id, error: describeError(thrown) },
      'the training job of a cancelled run could not be cancelled; it ends by itself',
    );
  }
}
