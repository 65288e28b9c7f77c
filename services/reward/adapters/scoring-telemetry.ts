/** What scoring does, as metrics and log lines. */

import { describeError } from '@plumb/kit/errors';
import { logger, meter } from '@plumb/kit/telemetry';
import type { ScoringEvents } from '../domain/scoring.ts';

/** Events of scoring go to metrics, and failures to the log. */
export function scoringTelemetry(): ScoringEvents {
  const log = logger('scoring');
  const instruments = meter('@plumb/reward-service');
  const outcomes = instruments.createCounter('plumb.reward.outcomes', {
    description: 'Outcomes by reward: scored, cached, or the code of the error',
    unit: '{outcome}',
  });
  const queue = instruments.createHistogram('plumb.reward.queue.duration', { unit: 's' });
  const inference = instruments.createHistogram('plumb.reward.inference.duration', { unit: 's' });
  const total = instruments.createHistogram('plumb.reward.duration', { unit: 's' });
  const batchSize = instruments.createHistogram('plumb.reward.batch.size', { unit: '{item}' });
  return {
    outcome: ({ reward, result, timings, cached }) => {
      const attributes = { 'plumb.reward': reward };
      const kind = 'error' in result ? result.error.code : cached ? 'cached' : 'scored';
      outcomes.add(1, {
        ...attributes,
        outcome: kind,
        ...('error' in result ? { 'plumb.error.reason': result.error.reason } : {}),
      });
      total.record(timings.totalMs / 1000, attributes);
      if ('error' in result) {
        log.warn({ reward, code: kind, error: describeError(result.error) }, 'an item could not be scored');
        return;
      }
      queue.record(timings.queueMs / 1000, attributes);
      inference.record(timings.inferenceMs / 1000, attributes);
    },
    batch: (reward, { items }) => batchSize.record(items, { 'plumb.reward': reward }),
  };
}
