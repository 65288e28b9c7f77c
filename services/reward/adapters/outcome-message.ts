/** Outcomes as messages. */

import { create } from '@bufbuild/protobuf';
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import { toStatus } from '@plumb/kit/errors';
import { RewardOutcomeSchema } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { RewardOutcome } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { Outcome } from '../domain/scoring.ts';

/** The message of an outcome. */
export function outcomeMessage({
  reward,
  version,
  weightsHash,
  result,
  timings,
  cached,
}: Outcome): RewardOutcome {
  return create(RewardOutcomeSchema, {
    reward,
    version,
    weightsHash,
    outcome:
      'score' in result
        ? {
            case: 'score',
            value: {
              value: result.score.value,
              details: { ...result.score.details },
              reason: result.score.reason ?? '',
              failureMode: result.score.failureMode ?? '',
              checks: { ...result.score.checks },
            },
          }
        : { case: 'error', value: { status: toStatus(result.error), retryable: result.error.retryable } },
    timings: {
      // Whole microseconds: durations are for people and histograms.
      queue: durationFromMs(microseconds(timings.queueMs)),
      inference: durationFromMs(microseconds(timings.inferenceMs)),
      total: durationFromMs(microseconds(timings.totalMs)),
    },
    cached,
  });
}

function microseconds(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
