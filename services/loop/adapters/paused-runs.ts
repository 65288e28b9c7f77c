import { describeError, fromStatus } from '@plumb/kit/errors';
import type { PlumbError } from '@plumb/kit/errors';
import { logger, meter } from '@plumb/kit/telemetry';
import { listPausedRuns } from './ledger/runs.ts';
import type { Ledger } from './ledger/tables.ts';
import { statusFromText } from './messages.ts';

const log = logger('plumb.loop');

/** What a run that a person has paused says. */
const requested = 'REQUESTED';
/** A look at the ledger stands for this long, in milliseconds, and a scrape waits no longer for one. */
const freshMs = 5000;
const deadlineMs = 2000;

/**
 * Observes which runs are paused, and why. The ledger is asked, so that a restarted loop says the same.
 * @param halted Runs that stand still although the ledger could not be told.
 */
export function observePausedRuns(ledger: Ledger, halted: () => ReadonlyMap<string, PlumbError>): void {
  let known = new Map<string, string>();
  let askedAt = -Infinity;
  const ask = async (): Promise<void> => {
    try {
      const rows = await listPausedRuns(ledger);
      known = new Map(
        rows.map(({ id, error }) => [
          id,
          error === null ? requested : fromStatus(statusFromText(error)).reason,
        ]),
      );
    } catch (thrown) {
      // What was known last is shown meanwhile; a ledger that is away is told of as a stall.
      log.debug({ error: describeError(thrown) }, 'which runs are paused cannot be read');
    }
  };
  meter('plumb.loop')
    .createObservableGauge('plumb.run.paused', {
      description:
        'Always 1: the run is paused, for the reason of the label; REQUESTED for one that somebody paused',
      unit: '1',
    })
    .addCallback(async (result) => {
      if (performance.now() - askedAt > freshMs) {
        askedAt = performance.now();
        const late = Promise.withResolvers<void>();
        const timer = setTimeout(() => {
          late.resolve();
        }, deadlineMs);
        await Promise.race([ask(), late.promise]);
        clearTimeout(timer);
      }
      const reasons = new Map([...known, ...[...halted()].map(([id, { reason }]) => [id, reason] as const)]);
      for (const [runId, reason] of reasons) {
        result.observe(1, { 'plumb.run.id': runId, 'plumb.pause.reason': reason });
      }
    });
}
