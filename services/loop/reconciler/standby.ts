import { setTimeout as sleep } from 'node:timers/promises';
import { describeError } from '@plumb/kit/errors';
import { listRunningRuns } from '../adapters/ledger/runs.ts';
import { loopLogger } from './context.ts';
import type { LoopContext } from './context.ts';

/** Longest time after which watchers of a standby see what the leader has written, in milliseconds. */
const lookMs = 2_000;

/**
 * Tells the watchers of this process of runs that another one works on, until the signal aborts: everything that the leader
 * does is in the ledger, and nothing else says so. Never rejects.
 */
export async function followLeader(
  loop: Pick<LoopContext, 'database' | 'changes'>,
  signal: AbortSignal,
): Promise<void> {
  let before: readonly string[] = [];
  while (!signal.aborted) {
    try {
      const running = await listRunningRuns(loop.database);
      // Those that have just ended as well.
      for (const runId of new Set([...before, ...running])) loop.changes.notify(runId);
      before = running;
    } catch (thrown) {
      loopLogger.warn({ error: describeError(thrown) }, 'the runs could not be listed; trying again');
    }
    await sleep(lookMs, undefined, { signal }).catch(() => undefined);
  }
}
