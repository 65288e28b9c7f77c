import { sum } from 'simple-statistics';

/**
 * The logarithm of a sample's weight, before normalisation, as a function of its shaped reward. -Infinity is weight 0.
 * Logarithms, because exp(r / beta) overflows for small beta while its normalised value does not.
 */
export type LogWeight = (reward: number) => number;

/** w = 1: every sample counts the same, whatever its reward. */
export const identity: LogWeight = () => 0;

/** w = 1 where reward >= `limit`, else 0. */
export function threshold(limit: number): LogWeight {
  return (reward) => (reward >= limit ? 0 : -Infinity);
}

/**
 * w = exp(r / temperature), which makes the weighted sample distribution p* itself.
 * @param temperature beta > 0, in the unit of the shaped reward
 */
export function exponential(temperature: number): LogWeight {
  return (reward) => reward / temperature;
}

/** w = max(0, r) of the shaped reward r = eta (raw - gamma): the paper's weight in practice. */
export const shaped: LogWeight = (reward) => Math.log(Math.max(0, reward));

/** What the largest-weight cap did. */
export interface CapEffect {
  /** The cap, in units of the mean weight. */
  readonly limit: number;
  /** How many weights were cut down to it. */
  readonly capped: number;
  /** The largest weight before the cap, in units of the mean weight. */
  readonly largestBefore: number;
  /** Share of all weight that the cap moved to other samples, in [0, 1). 0 if nothing was capped. */
  readonly massMoved: number;
  /** Kish's effective sample size without the cap. */
  readonly effectiveSampleSizeBefore: number;
}

/** Normalised weights of the samples that have any. */
export interface NormalisedWeights {
  /** One a sample, in the order given; 0 for samples without weight; mean 1 over the others. */
  readonly weights: Float64Array;
  readonly cap: CapEffect;
}

/**
 * Normalises weights and caps the largest.
 *
 * `global`: w_i proportional to exp(logWeight_i). `per-prompt`: self-normalised importance weights of p*: within each
 * prompt they sum to the prompt's number of samples, so that Z(c) is estimated from the prompt's own samples and an
 * easy prompt gets no more weight than a hard one. A prompt all of whose weights are 0 drops out. Either way the
 * maximum logarithm is subtracted before exp is taken; normalisation cancels it. The result is scaled to mean 1 over
 * the samples with weight above 0. Capping takes the excess above `maxWeight` and spreads it over the uncapped in
 * proportion, so that the mean stays 1.
 *
 * @param logWeights one a sample; -Infinity is weight 0; NaN and +Infinity are the caller's error
 * @param groups the prompt of each sample
 * @param maxWeight above 1, in units of the mean weight
 */
export function normaliseWeights(
  logWeights: readonly number[],
  groups: readonly string[],
  normalisation: 'global' | 'per-prompt',
  maxWeight: number,
): NormalisedWeights {
  const members = new Map<string, number[]>();
  for (const index of logWeights.keys()) {
    const group = normalisation === 'global' ? '' : (groups[index] ?? '');
    const list = members.get(group);
    if (list === undefined) members.set(group, [index]);
    else list.push(index);
  }
  const weights = new Float64Array(logWeights.length);
  for (const indices of members.values()) {
    const largest = indices.reduce(
      (most, index) => Math.max(most, logWeights[index] ?? -Infinity),
      -Infinity,
    );
    if (largest === -Infinity) continue;
    let total = 0;
    for (const index of indices) {
      weights[index] = Math.exp((logWeights[index] ?? -Infinity) - largest);
      total += weights[index] ?? 0;
    }
    for (const index of indices) weights[index] = ((weights[index] ?? 0) / total) * indices.length;
  }
  const positive = weights.filter((weight) => weight > 0);
  if (positive.length === 0) {
    const cap = { limit: maxWeight, capped: 0, largestBefore: 0, massMoved: 0, effectiveSampleSizeBefore: 0 };
    return { weights, cap };
  }
  const mean = sum([...positive]) / positive.length;
  for (const index of weights.keys()) weights[index] = (weights[index] ?? 0) / mean;
  return capWeights(weights, maxWeight);
}

/** min(w, limit), with the rest scaled up so that the mean over positive weights stays 1. Exact, by sorted order. */
function capWeights(weights: Float64Array, limit: number): NormalisedWeights {
  const descending = weights.filter((weight) => weight > 0).toSorted((a, b) => b - a);
  const n = descending.length;
  const effectiveSampleSizeBefore = effectiveSampleSize(weights);
  const largestBefore = descending[0] ?? 0;
  // With the k largest at the limit, the others are scaled by (n - k limit) / (their sum); k is right once the
  // largest of the others stays within the limit. limit > 1 makes n - k limit positive until then.
  // Sums of the tail, added up from the smallest: subtracting from the total would cancel the small weights away.
  const tail = new Float64Array(n + 1);
  for (let index = n - 1; index >= 0; index--)
    tail[index] = (tail[index + 1] ?? 0) + (descending[index] ?? 0);
  let capped = 0;
  let scale = 1;
  while (capped < n && (descending[capped] ?? 0) * scale > limit * (1 + 1e-12)) {
    capped++;
    const rest = tail[capped] ?? 0;
    scale = rest > 0 ? (n - capped * limit) / rest : 1;
  }
  if (capped === 0) {
    return { weights, cap: { limit, capped, largestBefore, massMoved: 0, effectiveSampleSizeBefore } };
  }
  const boundary = descending[capped - 1] ?? 0;
  let moved = 0;
  const result = weights.map((weight) => {
    const after = weight >= boundary ? limit : weight * scale;
    moved += Math.max(0, weight - after);
    return after;
  });
  return {
    weights: result,
    cap: { limit, capped, largestBefore, massMoved: moved / n, effectiveSampleSizeBefore },
  };
}

/**
 * Kish's effective sample size, (sum w)^2 / sum w^2: how many equally weighted samples carry the same variance.
 * @param weights non-negative, at any scale; weights of 0 do not count
 * @returns from 1 to the number of positive weights; 0 if there is none
 */
export function effectiveSampleSize(weights: ArrayLike<number>): number {
  let total = 0;
  let squares = 0;
  for (let index = 0; index < weights.length; index++) {
    const weight = weights[index] ?? 0;
    total += weight;
    squares += weight * weight;
  }
  return squares === 0 ? 0 : total ** 2 / squares;
}
