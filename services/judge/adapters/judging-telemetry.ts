/** What judging does, as metrics and log lines. */

import { describeError } from '@plumb/kit/errors';
import { logger, meter } from '@plumb/kit/telemetry';
import type { JudgingEvents } from '../domain/judging.ts';

/** Events of judging go to counters, and faults to the log. */
export function judgingTelemetry(): JudgingEvents {
  const log = logger('judging');
  const instruments = meter('@plumb/judge-service');
  const verdicts = instruments.createCounter('plumb.judge.verdicts', {
    description: 'Verdicts given, by judge and by where they came from: memory, store or endpoint',
  });
  const faults = instruments.createCounter('plumb.judge.faults', {
    description: 'Failed calls to endpoints, by judge and kind; most are followed by another call',
  });
  const storeFailures = instruments.createCounter('plumb.judge.store.failures', {
    description: 'Reads and writes of the verdict store that failed; the verdict itself is not affected',
  });
  return {
    verdict: ({ name }, source) => verdicts.add(1, { 'plumb.judge': name, source }),
    fault: ({ name }, error, attempt) => {
      const { fault } = error;
      faults.add(1, { 'plumb.judge': name, fault });
      log.info({ judge: name, fault, attempt, error: describeError(error) }, 'call to the endpoint failed');
    },
    storeFailed: (error) => {
      storeFailures.add(1);
      log.warn(
        { error: describeError(error) },
        'the verdict store failed; the verdict is kept in memory and written later',
      );
    },
  };
}
