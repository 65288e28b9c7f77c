import { setTimeout as sleep } from 'node:timers/promises';
import { describeError, PlumbError } from '@plumb/kit/errors';
import { withSpan } from '@plumb/kit/telemetry';
import { timestampDate } from '@bufbuild/protobuf/wkt';
import { JobState } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import {
  abandonJob,
  insertJob,
  insertProgress,
  latestProgress,
  updateJob,
} from '../adapters/ledger/iterations.ts';
import { artifactFromText, jobToText, progressToText } from '../adapters/messages.ts';
import { trainingSeedOf } from '../domain/identity.ts';
import { loopMetrics } from '../metrics.ts';
import { loopLogger, loopTracer } from './context.ts';
import type { LoopContext } from './context.ts';
import { currentTraceId, iterationAttributes, iterationContext } from './iteration-trace.ts';
import type { LoadedIteration } from '../adapters/loaded-iteration.ts';

/** Pause between two attempts to reach the trainer, in milliseconds. */
const retryMs = 1_000;

/** Asks the trainer for the iteration's job, and records it. The same attempt is the same job, however often it is asked. */
export async function createTrainingJob(
  loop: LoopContext,
  loaded: LoadedIteration,
  signal: AbortSignal,
): Promise<void> {
  const { run, spec, row, model, dataSet } = loaded;
  if (dataSet === undefined) throw new TypeError('there is no data set to train on');
  const key = { runId: run.id, iteration: row.iteration };
  const attempt = (loaded.job?.row.attempt ?? 0) + 1;
  const parent = await iterationContext(loop, key);
  await withSpan(loopTracer, 'train', { parent, attributes: iterationAttributes(key) }, async (span) => {
    const job = await loop.trainer.createJob(
      {
        dataSet: artifactFromText(dataSet.manifest),
        base: model,
        ...(spec.reference === 'pretrained' && spec.base !== undefined ? { reference: spec.base } : {}),
        ...(spec.objective === undefined ? {} : { objective: spec.objective }),
        ...(spec.optimisation === undefined ? {} : { optimisation: spec.optimisation }),
        ...(spec.adapters === undefined ? {} : { adapters: spec.adapters }),
        ...(spec.probe === undefined ? {} : { probe: spec.probe }),
        seed: trainingSeedOf(spec.seed, row.iteration),
        runId: run.id,
        iteration: row.iteration,
      },
      `${run.id}.${row.iteration}.${attempt}`,
      signal,
    );
    span.setAttribute('plumb.job.id', job.id);
    await insertJob(loop.database, {
      ...key,
      id: job.id,
      attempt,
      job: jobToText(job),
      traceId: currentTraceId(),
      now: new Date(),
    });
  });
}

/**
 * Follows a job to its end and writes its progress down; reconnects for as long as it takes. Resolves when the ledger has the
 * job's end, or the signal aborts.
 */
export async function watchTrainingJob(
  loop: LoopContext,
  options: { readonly runId: string; readonly jobId: string; readonly signal: AbortSignal },
): Promise<void> {
  const { runId, jobId, signal } = options;
  while (!signal.aborted) {
    try {
      if (await followJob(loop, options)) return;
    } catch (thrown) {
      const error = PlumbError.from(thrown);
      if (signal.aborted) return;
      if (error.code === 'NOT_FOUND') {
        loopLogger.warn({ runId, jobId }, 'the trainer has lost the job; asking for it anew');
        await abandonJob(loop.database, jobId);
        return;
      }
      if (!error.retryable && error.code !== 'CANCELLED' && error.code !== 'UNKNOWN') throw error;
      loopLogger.warn(
        { runId, jobId, error: describeError(thrown) },
        'lost sight of the training job; looking again',
      );
    }
    // An aborted sleep rejects; the loop's condition sees the abort.
    await sleep(retryMs, undefined, { signal }).catch(() => undefined);
  }
}

/** True when the job has ended. */
async function followJob(
  loop: LoopContext,
  options: { readonly runId: string; readonly jobId: string; readonly signal: AbortSignal },
): Promise<boolean> {
  const { runId, jobId, signal } = options;
  const last = await latestProgress(loop.database, jobId);
  for await (const event of loop.trainer.watchJob(jobId, last?.step ?? 0, signal)) {
    if ('progress' in event) {
      const { step } = event.progress;
      await insertProgress(loop.database, { jobId, step, progress: progressToText(event.progress) });
    } else {
      await recordJob(loop, runId, event.job);
      if (hasEnded(event.job)) return true;
    }
    loop.changes.notify(runId);
  }
  return false;
}

async function recordJob(loop: LoopContext, runId: string, job: Job): Promise<void> {
  if (job.dataSetSummary !== undefined) {
    loopMetrics.uninformativeRatio.record(job.dataSetSummary.uninformativePromptRatio, {
      'plumb.run.id': runId,
    });
  }
  await updateJob(loop.database, {
    id: job.id,
    state: ledgerState(job.state),
    job: jobToText(job),
    endedAt: hasEnded(job) ? (job.endTime === undefined ? new Date() : timestampDate(job.endTime)) : null,
  });
}

function hasEnded(job: Job): boolean {
  return ledgerState(job.state) !== 'running';
}

// A job that somebody cancelled behind the run's back is one that failed: the run pauses and can train again.
function ledgerState(state: JobState): 'running' | 'succeeded' | 'failed' {
  switch (state) {
    case JobState.SUCCEEDED:
      return 'succeeded';
    case JobState.FAILED:
    case JobState.CANCELLED:
      return 'failed';
    case JobState.UNSPECIFIED:
    case JobState.PENDING:
    case JobState.RUNNING:
      return 'running';
  }
}
