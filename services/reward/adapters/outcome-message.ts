/** Outcomes as messages. */

import { create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { DurationSchema } from '@bufbuild/protobuf/wkt';
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
              rubricHash: result.score.rubricHash ?? '',
            },
          }
        : { case: 'error', value: { status: toStatus(result.error), retryable: result.error.retryable } },
    timings: {
      queue: duration(timings.queueMs),
      inference: duration(timings.inferenceMs),
      total: duration(timings.totalMs),
    },
    cached,
  });
}

/** A duration in whole nanoseconds; protobuf-es' own helper wants whole milliseconds. */
export function duration(ms: number): MessageInitShape<typeof DurationSchema> {
  const nanoseconds = Math.round(ms * 1e6);
  return { seconds: BigInt(Math.floor(nanoseconds / 1e9)), nanos: nanoseconds % 1e9 };
}
