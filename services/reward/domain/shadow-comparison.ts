/** How the scores of a candidate compare with those of the reward that is in use. */

import type { PlumbError } from '@plumb/kit/errors';
import type { RewardInfo, ScoreValue } from './reward-scorer.ts';
import type { Outcome } from './scoring.ts';

/** What came of shadow scoring so far. Numbers without any pair to compare are NaN. */
export interface ShadowReport {
  readonly reward: RewardInfo;
  readonly candidate: RewardInfo;
  readonly since: Date;
  /** Items that both scored. */
  readonly compared: number;
  /** Items whose values are the same to the last bit. */
  readonly identical: number;
  /** Items that only the candidate could not score, because the reward could. */
  readonly candidateErrors: number;
  /** Items that only the candidate could score. */
  readonly rewardErrors: number;
  /** Items that the candidate had no room for. */
  readonly skipped: number;
  /** Of the candidate's value less the reward's. */
  readonly meanDifference: number;
  readonly meanAbsoluteDifference: number;
  readonly largestAbsoluteDifference: number;
  /** Pearson's, from -1 to 1. */
  readonly correlation: number;
  /** Share of neighbouring pairs of items, ties left out, that both put in the same order. */
  readonly sameOrder: number;
  /** Mean time of the batches that the items were in, in milliseconds. */
  readonly rewardInferenceMs: number;
  readonly candidateInferenceMs: number;
}

/** Collects pairs of scores; keeps sums and no items. */
export interface ShadowComparison {
  add(
    outcome: Outcome,
    candidate: { readonly score: ScoreValue; readonly inferenceMs: number } | { readonly error: PlumbError },
  ): void;
  report(reward: RewardInfo, candidate: RewardInfo): ShadowReport;
}

/** A comparison without any pairs yet. */
export function compareScores(): ShadowComparison {
  const since = new Date();
  const counts = { identical: 0, candidateErrors: 0, rewardErrors: 0, skipped: 0, ordered: 0, sameOrder: 0 };
  // Means and squares about them, one pair after the other: Welford, Technometrics 4 (1962), 419-420.
  const mean = { x: 0, y: 0, absolute: 0, xMs: 0, yMs: 0 };
  const squares = { x: 0, y: 0, xy: 0 };
  let compared = 0;
  let largest = 0;
  let last: { readonly x: number; readonly y: number } | undefined;

  function addPair(x: number, y: number, xMs: number, yMs: number): void {
    compared += 1;
    if (x === y) counts.identical += 1;
    const [dx, dy] = [x - mean.x, y - mean.y];
    mean.x += dx / compared;
    mean.y += dy / compared;
    squares.x += dx * (x - mean.x);
    squares.y += dy * (y - mean.y);
    squares.xy += dx * (y - mean.y);
    const absolute = Math.abs(y - x);
    mean.absolute += (absolute - mean.absolute) / compared;
    mean.xMs += (xMs - mean.xMs) / compared;
    mean.yMs += (yMs - mean.yMs) / compared;
    largest = Math.max(largest, absolute);
    if (last !== undefined && x !== last.x && y !== last.y) {
      counts.ordered += 1;
      if (x > last.x === y > last.y) counts.sameOrder += 1;
    }
    last = { x, y };
  }

  return {
    add({ result, timings }, candidate) {
      if ('error' in candidate && candidate.error.code === 'RESOURCE_EXHAUSTED') counts.skipped += 1;
      else if ('score' in result && 'score' in candidate) {
        addPair(result.score.value, candidate.score.value, timings.inferenceMs, candidate.inferenceMs);
      } else if ('score' in result) counts.candidateErrors += 1;
      else if ('score' in candidate) counts.rewardErrors += 1;
    },
    report(reward, candidate) {
      const some = (value: number): number => (compared === 0 ? Number.NaN : value);
      return {
        reward,
        candidate,
        since,
        compared,
        identical: counts.identical,
        candidateErrors: counts.candidateErrors,
        rewardErrors: counts.rewardErrors,
        skipped: counts.skipped,
        meanDifference: some(mean.y - mean.x),
        meanAbsoluteDifference: some(mean.absolute),
        largestAbsoluteDifference: some(largest),
        correlation: squares.xy / Math.sqrt(squares.x * squares.y),
        sameOrder: counts.sameOrder / counts.ordered,
        rewardInferenceMs: some(mean.xMs),
        candidateInferenceMs: some(mean.yMs),
      };
    },
  };
}
