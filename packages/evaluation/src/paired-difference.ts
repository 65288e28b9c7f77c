import { failedPrecondition, invalidArgument } from '@plumb/kit/errors';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';
import { mean } from 'simple-statistics';
import { clusterBootstrap } from './cluster-bootstrap.ts';
import type { BootstrapOptions } from './cluster-bootstrap.ts';
import type { Estimate } from './estimate.ts';
import { holm } from './holm.ts';
import { groupByPrompt } from './outcomes.ts';
import type { Outcome } from './outcomes.ts';

/** An outcome and the sampling seed it came from. */
export interface SeededOutcome extends Outcome {
  readonly seed: number | string | bigint;
}

/** The same prompt and seed under two models. */
export interface PairedOutcome {
  readonly promptId: string;
  readonly category: string;
  readonly before: number;
  readonly after: number;
}

/** Pairs, and how many outcomes had no partner (their other half failed to be scored). */
export interface JoinedOutcomes {
  readonly pairs: readonly PairedOutcome[];
  readonly unpaired: { readonly before: number; readonly after: number };
}

/** One model against another on the same prompts and seeds. Means are over prompts of the means within a prompt. */
export interface Comparison {
  readonly before: Estimate;
  readonly after: Estimate;
  /** after - before. */
  readonly difference: Estimate;
  /** Share of pairs in which `after` is higher, ties counting half. 0.5 is no difference. */
  readonly winRate: Estimate;
  /**
   * Two-sided p-value of no difference by flipping the signs of the prompts' differences: exact up to 12 prompts, else
   * from as many random flips as there are resamples.
   */
  readonly pValue: number;
}

/** A comparison of one category, with its p-value corrected for there being several. */
export interface CategoryComparison extends Comparison {
  /** Holm's correction over the categories of this comparison. */
  readonly adjustedPValue: number;
}

export interface PairedDifference extends Comparison {
  readonly perCategory: Readonly<Record<string, CategoryComparison>>;
  /** What the categories' adjusted p-values are corrected by. The overall p-value is not: it is the one planned test. */
  readonly correction: 'holm';
}

/**
 * Joins two evaluations by prompt and seed.
 * @throws PlumbError INVALID_ARGUMENT if one side has a prompt and seed twice; FAILED_PRECONDITION if nothing joins
 */
export function pairOutcomes(
  before: readonly SeededOutcome[],
  after: readonly SeededOutcome[],
): JoinedOutcomes {
  const left = indexBySeed('before', before);
  const right = indexBySeed('after', after);
  const pairs: PairedOutcome[] = [];
  for (const [key, { promptId, category, value }] of left) {
    const partner = right.get(key);
    if (partner !== undefined) {
      pairs.push({ promptId, category, before: Number(value), after: Number(partner.value) });
    }
  }
  if (pairs.length === 0) {
    throw failedPrecondition(
      `outcomes: none of ${before.length} before and ${after.length} after share prompt and seed; sample both models with the same seeds`,
    );
  }
  return { pairs, unpaired: { before: left.size - pairs.length, after: right.size - pairs.length } };
}

function indexBySeed(side: string, outcomes: readonly SeededOutcome[]): Map<string, SeededOutcome> {
  const index = new Map<string, SeededOutcome>();
  for (const outcome of outcomes) {
    const key = JSON.stringify([outcome.promptId, String(outcome.seed)]);
    if (index.has(key)) {
      throw invalidArgument(
        side,
        `has prompt ${outcome.promptId} with seed ${outcome.seed} twice; give one outcome each`,
      );
    }
    index.set(key, outcome);
  }
  return index;
}

/**
 * The difference between two models on the same prompts and seeds: pairs are averaged within a prompt, prompts are
 * resampled. Pairing takes the spread between prompts and seeds out of the difference.
 * @throws PlumbError INVALID_ARGUMENT for a value that is not finite; FAILED_PRECONDITION for no pairs
 */
export function pairedDifference(
  pairs: readonly PairedOutcome[],
  options: BootstrapOptions,
): PairedDifference {
  const bad = pairs.findIndex(({ before, after }) => !Number.isFinite(before) || !Number.isFinite(after));
  if (bad !== -1) {
    throw invalidArgument(
      `pairs[${bad}]`,
      `is ${pairs[bad]?.before} before and ${pairs[bad]?.after} after; leave failed scores out`,
    );
  }
  const isRate = pairs.every(({ before, after }) =>
    [before, after].every((value) => value >= 0 && value <= 1),
  );
  const prompts = groupByPrompt(pairs).map(({ category, members }) => {
    const before = mean(members.map((pair) => pair.before));
    const after = mean(members.map((pair) => pair.after));
    const wins = mean(
      members.map((pair) => (pair.after > pair.before ? 1 : pair.after === pair.before ? 0.5 : 0)),
    );
    return {
      category,
      difference: after - before,
      sums: [before, after, after - before, wins],
      count: 1,
      samples: members.length,
    };
  });
  const rate = isRate ? 'rate' : 'unbounded';
  const columns = [rate, rate, isRate ? 'difference-of-rates' : 'unbounded', 'rate'] as const;
  const [before, after, difference, winRate] = clusterBootstrap(prompts, columns, options);
  if (before === undefined || after === undefined || difference === undefined || winRate === undefined) {
    throw failedPrecondition('pairs: gave no estimate');
  }
  const pValueOf = (members: readonly { difference: number }[]): number =>
    signFlipTest(
      members.map((prompt) => prompt.difference),
      options,
    );
  const byCategory = Map.groupBy(prompts, ({ category }) => category);
  const categories = Object.keys(difference.perCategory);
  const pValues = categories.map((category) => pValueOf(byCategory.get(category) ?? []));
  const adjusted = holm(pValues);
  const perCategory = categories.flatMap((category, index) => {
    const parts = [before, after, difference, winRate].map((column) => column.perCategory[category]);
    const [b, a, d, w] = parts;
    if (b === undefined || a === undefined || d === undefined || w === undefined) return [];
    const comparison: CategoryComparison = {
      before: b,
      after: a,
      difference: d,
      winRate: w,
      pValue: pValues[index] ?? 1,
      adjustedPValue: adjusted[index] ?? 1,
    };
    return [[category, comparison] as const];
  });
  return {
    before: before.overall,
    after: after.overall,
    difference: difference.overall,
    winRate: winRate.overall,
    pValue: pValueOf(prompts),
    perCategory: Object.fromEntries(perCategory),
    correction: 'holm',
  };
}

/** Fisher's sign-flip randomisation test of the mean being 0, two-sided. */
function signFlipTest(differences: readonly number[], options: BootstrapOptions): number {
  const { seed, resamples = 10_000 } = options;
  const count = differences.length;
  const observed = Math.abs(differences.reduce((sum, value) => sum + value, 0));
  // Sums that are equal up to rounding are ties and count against the difference.
  const reached = observed * (1 - 1e-9);
  if (count <= 12) {
    let extreme = 0;
    for (let signs = 0; signs < 2 ** count; signs++) {
      let sum = 0;
      for (const [bit, value] of differences.entries()) sum += (signs >> bit) & 1 ? value : -value;
      if (Math.abs(sum) >= reached) extreme++;
    }
    return extreme / 2 ** count;
  }
  const random = xoroshiro128plus(seed);
  let extreme = 0;
  for (let flip = 0; flip < resamples; flip++) {
    let sum = 0;
    let bits = 0;
    for (let index = 0; index < count; index++) {
      if (index % 32 === 0) bits = random.next();
      sum += (bits >> (index % 32)) & 1 ? (differences[index] ?? 0) : -(differences[index] ?? 0);
    }
    if (Math.abs(sum) >= reached) extreme++;
  }
  // The observed signs are one of the flips, so that p is never 0.
  return (extreme + 1) / (resamples + 1);
}
