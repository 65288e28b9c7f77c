import { mean, sampleStandardDeviation } from 'simple-statistics';
import type { Shaping } from './settings.ts';

/**
 * Raw rewards to shaped rewards: standardised within the prompt if asked for, then eta (r - gamma), then clipped.
 * @param rewards finite raw rewards
 * @param groups the prompt of each reward
 * @returns one shaped reward each, in the order given
 */
export function shapeRewards(
  rewards: readonly number[],
  groups: readonly string[],
  settings: Shaping,
): number[] {
  const { eta, gamma, clip } = settings;
  const standardised = settings.standardise === 'per-prompt' ? standardise(rewards, groups) : rewards;
  const [low, high] = clip ?? [-Infinity, Infinity];
  return standardised.map((reward) => Math.min(high, Math.max(low, eta * (reward - gamma))));
}

function standardise(rewards: readonly number[], groups: readonly string[]): number[] {
  const byGroup = Map.groupBy(rewards.keys(), (index) => groups[index] ?? '');
  const result = Array.from<number>({ length: rewards.length }).fill(0);
  for (const indices of byGroup.values()) {
    const members = indices.map((index) => rewards[index] ?? 0);
    const centre = mean(members);
    const deviation = members.length > 1 ? sampleStandardDeviation(members) : 0;
    // Rounding leaves a spread of a few units in the last place where all members are equal; that is no signal.
    const spread = deviation > 1e-12 * Math.max(...members.map(Math.abs)) ? deviation : Infinity;
    for (const index of indices) result[index] = ((rewards[index] ?? 0) - centre) / spread;
  }
  return result;
}
