import type { Consumption } from '@plumb/kit/bus';
import { consumeSampleEvents } from './adapters/sample-events.ts';
import type { FeedbackRunController } from './feedback-run-controller.ts';
import type { LeaderWork } from './leadership.ts';
import type { LoopContext } from './reconciler/context.ts';
import type { Reconciler } from './reconciler/reconciler.ts';
import { followLeader } from './reconciler/standby.ts';

/** Results go into the ledger, runs are driven, and FeedbackRuns become runs. */
export function leaderWork(
  loop: LoopContext,
  reconciler: Reconciler,
  feedbackRuns: FeedbackRunController | undefined,
): LeaderWork {
  let consumptions: readonly Consumption[] = [];
  return {
    async start(signal) {
      consumptions = await consumeSampleEvents(loop.bus, loop.database, {
        signal,
        generated: (sampleIds) => {
          loop.arrivals.note(sampleIds);
        },
        changed: (runIds) => {
          for (const runId of runIds) {
            loop.changes.notify(runId);
            reconciler.wake(runId);
          }
        },
      });
      await reconciler.start(signal);
      feedbackRuns?.start(signal);
    },
    async standBy(signal) {
      await followLeader(loop, signal);
    },
    async stop() {
      await feedbackRuns?.stop();
      await Promise.all(consumptions.map(async (consumption) => await consumption.stop()));
      await reconciler.stop();
    },
  };
}
