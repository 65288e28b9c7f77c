/** Outcomes of items that may come out otherwise when they are asked for again. */

import { fromStatus, PlumbError, toStatus } from '@plumb/kit/errors';
import type { RewardOutcome, ScoredItem } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { mayHelp } from './retry.ts';

/** What of an item is worth another attempt. */
export interface Unfinished {
  /** Names of the rewards whose error may go away. */
  readonly rewards: readonly string[];
  /** The longest that a server asked to wait, in milliseconds; undefined if none did. */
  readonly retryAfterMs: number | undefined;
}

/** The rewards of an item to ask again; undefined when there are none. */
export function unfinished({ outcomes }: ScoredItem): Unfinished | undefined {
  const errors = outcomes.flatMap((outcome) => {
    const error = errorOf(outcome);
    return error !== undefined && mayHelp(error) ? [{ reward: outcome.reward, error }] : [];
  });
  if (errors.length === 0) return undefined;
  const asked = errors.flatMap(({ error }) => (error.retryAfterMs === undefined ? [] : [error.retryAfterMs]));
  return {
    rewards: errors.map(({ reward }) => reward),
    retryAfterMs: asked.length === 0 ? undefined : Math.max(...asked),
  };
}

/** An item with the outcomes of a later attempt in the place of those of the same rewards. */
export function withLater(item: ScoredItem, later: ScoredItem): ScoredItem {
  const byReward = new Map(later.outcomes.map((outcome) => [outcome.reward, outcome]));
  return { ...item, outcomes: item.outcomes.map((outcome) => byReward.get(outcome.reward) ?? outcome) };
}

/** An item whose unfinished outcomes ended with the error of the call that asked for them again. */
export function withError(item: ScoredItem, rewards: readonly string[], thrown: unknown): ScoredItem {
  const error = PlumbError.from(thrown);
  const value = {
    $typeName: 'plumb.reward.v1.ScoreError',
    status: toStatus(error),
    retryable: error.retryable,
  } as const;
  const outcomes = item.outcomes.map((outcome) =>
    rewards.includes(outcome.reward) && outcome.outcome.case === 'error'
      ? { ...outcome, outcome: { case: 'error', value } as const }
      : outcome,
  );
  return { ...item, outcomes };
}

function errorOf({ outcome }: RewardOutcome): PlumbError | undefined {
  return outcome.case === 'error' && outcome.value.status !== undefined
    ? fromStatus(outcome.value.status)
    : undefined;
}
