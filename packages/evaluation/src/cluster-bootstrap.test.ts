import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import * as fc from 'fast-check';
import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';
import { acceptance, meanReward } from './outcomes.ts';
import type { Outcome } from './outcomes.ts';
import { pairedDifference, pairOutcomes } from './paired-difference.ts';
import type { PairedOutcome } from './paired-difference.ts';

const categories = ['OR', 'MO', 'DO', 'DM', 'FD'];

/**
 * Synthetic evaluation with the toybox's shape: 8 prompts a category, whose own rates are uniform on the category's
 * mean +- spread, so that samples of one prompt are alike. `shift` is added to every rate.
 */
function synthetic(
  seed: number,
  perPrompt: number,
  spread = 0.35,
  shift = 0,
): (Outcome & { seed: number })[] {
  const random = xoroshiro128plus(seed);
  return categories.flatMap((category, c) =>
    Array.from({ length: 8 }).flatMap((_, p) => {
      const rate = 0.4 + 0.05 * c + shift + spread * (2 * uniformFloat64(random) - 1);
      return Array.from({ length: perPrompt }, (__, sample) => ({
        promptId: `${category}${p}`,
        category,
        seed: sample,
        value: uniformFloat64(random) < rate,
      }));
    }),
  );
}

describe('acceptance', () => {
  test('overall is the mean over samples; categories are their own means', () => {
    const outcomes = [
      { promptId: 'a', category: 'OR', value: true },
      { promptId: 'a', category: 'OR', value: false },
      { promptId: 'a', category: 'OR', value: false },
      { promptId: 'b', category: 'OR', value: true },
      { promptId: 'c', category: 'FD', value: 1 },
      { promptId: 'd', category: 'FD', value: 0 },
    ];
    const { overall, perCategory } = acceptance(outcomes, { seed: 1 });
    assert.equal(overall.value, 0.5);
    assert.deepEqual([overall.samples, overall.clusters], [6, 4]);
    assert.equal(perCategory['OR']?.value, 0.5);
    assert.equal(perCategory['FD']?.clusters, 2);
  });

  test('the interval holds the estimate, and neither order nor repetition changes it', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 1000 }), fc.integer({ min: 1, max: 4 }), (seed, perPrompt) => {
        const outcomes = synthetic(seed, perPrompt);
        const options = { seed, resamples: 500 };
        const first = acceptance(outcomes, options);
        for (const estimate of [first.overall, ...Object.values(first.perCategory)]) {
          assert.ok(estimate.lower <= estimate.value && estimate.value <= estimate.upper);
        }
        assert.deepEqual(acceptance(outcomes.toReversed(), options), first);
      }),
      { numRuns: 30 },
    );
  });

  test('covers the truth about as often as it says, where samples cluster and where a naive interval does not', (t) => {
    const runs = 400;
    const truth = 0.5;
    let covered = 0;
    let categoryCovered = 0;
    let naive = 0;
    for (let run = 0; run < runs; run++) {
      const { overall, perCategory } = acceptance(synthetic(run + 1, 8), { seed: run, resamples: 600 });
      if (overall.lower <= truth && truth <= overall.upper) covered++;
      const category = perCategory['DO'];
      if (category !== undefined && category.lower <= 0.5 && 0.5 <= category.upper) categoryCovered++;
      const half = 1.96 * Math.sqrt((overall.value * (1 - overall.value)) / overall.samples);
      if (Math.abs(overall.value - truth) <= half) naive++;
    }
    t.diagnostic(
      `coverage of 95% intervals: 40 prompts ${covered / runs}, 8 prompts ${categoryCovered / runs}; naive binomial ${naive / runs}`,
    );
    // Four standard errors of a coverage of 0.95 over 400 runs are 0.044.
    assert.ok(covered / runs > 0.95 - 0.044 && covered / runs <= 1);
    assert.ok(categoryCovered / runs > 0.95 - 0.06);
    assert.ok(naive < covered);
  });

  test('prompts that all agree get an interval all the same', () => {
    const all = Array.from({ length: 8 }, (_, p) => ({ promptId: `p${p}`, category: 'OR', value: true }));
    const { overall } = acceptance(all, { seed: 1 });
    assert.deepEqual([overall.value, overall.upper, overall.method], [1, 1, 'wilson']);
    assert.ok(overall.lower > 0.6 && overall.lower < 0.7);
  });

  test('a single prompt says nothing beyond itself', () => {
    const { overall } = acceptance(
      [
        { promptId: 'a', category: 'OR', value: true },
        { promptId: 'a', category: 'OR', value: false },
      ],
      { seed: 1 },
    );
    assert.deepEqual([overall.lower, overall.value, overall.upper], [0, 0.5, 1]);
    assert.throws(
      () => meanReward([{ promptId: 'a', category: 'OR', value: 7 }], { seed: 1 }),
      /single prompt/,
    );
  });

  test('refuses nothing, values outside a rate, and a prompt in two categories', () => {
    const code = (outcomes: readonly Outcome[]): string => {
      let thrown: unknown;
      try {
        acceptance(outcomes, { seed: 1 });
      } catch (error) {
        thrown = error;
      }
      assert.ok(thrown instanceof PlumbError);
      return thrown.code;
    };
    assert.equal(code([]), 'FAILED_PRECONDITION');
    assert.equal(code([{ promptId: 'a', category: 'OR', value: NaN }]), 'INVALID_ARGUMENT');
    assert.equal(
      code([
        { promptId: 'a', category: 'OR', value: 1 },
        { promptId: 'a', category: 'FD', value: 1 },
      ]),
      'INVALID_ARGUMENT',
    );
  });
});

describe('pairedDifference', () => {
  test('joins by prompt and seed, counts what has no partner, and refuses doubles', () => {
    const outcome = (seed: number, value: number) => ({ promptId: 'a', category: 'OR', seed, value });
    const joined = pairOutcomes(
      [outcome(1, 0), outcome(2, 0)],
      [outcome(2, 1), outcome(3, 1), outcome(4, 1)],
    );
    assert.deepEqual(joined, {
      pairs: [{ promptId: 'a', category: 'OR', before: 0, after: 1 }],
      unpaired: { before: 1, after: 2 },
    });
    assert.throws(() => pairOutcomes([outcome(1, 0), outcome(1, 1)], []), /twice/);
    assert.throws(() => pairOutcomes([outcome(1, 0)], [outcome(2, 0)]), /same seeds/);
  });

  test('by hand: prompts count the same however many pairs they have', () => {
    const pair = (promptId: string, before: number, after: number): PairedOutcome => ({
      promptId,
      category: 'OR',
      before,
      after,
    });
    const result = pairedDifference(
      [pair('a', 0, 1), pair('a', 0, 1), pair('a', 0, 1), pair('b', 1, 1), pair('c', 1, 0)],
      { seed: 1 },
    );
    assert.ok(Math.abs(result.difference.value) < 1e-12);
    assert.ok(Math.abs(result.winRate.value - 0.5) < 1e-12);
    assert.equal(result.before.value, 2 / 3);
    assert.equal(result.pValue, 1);
  });

  test('finds a real difference, in the right direction, and none where there is none', () => {
    const before = synthetic(5, 8);
    const better = pairedDifference(pairOutcomes(before, synthetic(5, 8, 0.35, 0.25)).pairs, { seed: 2 });
    assert.ok(better.difference.lower > 0 && better.winRate.lower > 0.5 && better.pValue < 0.01);
    const same = pairedDifference(pairOutcomes(before, before).pairs, { seed: 2 });
    assert.deepEqual([same.difference.value, same.difference.lower, same.difference.upper], [0, 0, 0]);
    assert.equal(same.pValue, 1);
  });

  test('swapping the models flips the difference and the win rate', () => {
    const { pairs } = pairOutcomes(synthetic(8, 4), synthetic(9, 4));
    const forward = pairedDifference(pairs, { seed: 3 });
    const backward = pairedDifference(
      pairs.map(({ before, after, ...rest }) => ({ ...rest, before: after, after: before })),
      { seed: 3 },
    );
    assert.ok(Math.abs(forward.difference.value + backward.difference.value) < 1e-12);
    assert.ok(Math.abs(forward.difference.lower + backward.difference.upper) < 1e-9);
    assert.ok(Math.abs(forward.winRate.value + backward.winRate.value - 1) < 1e-12);
    assert.equal(forward.pValue, backward.pValue);
  });

  test('p-values of the categories are exact and corrected by Holm', () => {
    const pairs = ['OR', 'FD'].flatMap((category) =>
      Array.from({ length: 8 }, (_, p) => ({
        promptId: `${category}${p}`,
        category,
        before: 0,
        after: category === 'OR' ? 1 : p % 2,
      })),
    );
    const { perCategory, correction } = pairedDifference(pairs, { seed: 1 });
    // All eight differences of one sign: 2 of 2^8 sign patterns are as extreme.
    assert.equal(perCategory['OR']?.pValue, 2 / 256);
    assert.equal(perCategory['OR']?.adjustedPValue, 4 / 256);
    assert.equal(perCategory['FD']?.pValue, 2 / 16);
    assert.equal(correction, 'holm');
  });

  test('the interval covers no difference about as often as it says, and small p-values are as rare as they say', (t) => {
    const runs = 300;
    let covered = 0;
    let rejected = 0;
    for (let run = 0; run < runs; run++) {
      const { pairs } = pairOutcomes(synthetic(10_000 + run, 4), synthetic(20_000 + run, 4));
      const { difference, pValue } = pairedDifference(pairs, { seed: run, resamples: 600 });
      if (difference.lower <= 0 && difference.upper >= 0) covered++;
      if (pValue <= 0.05) rejected++;
    }
    t.diagnostic(`coverage ${covered / runs}, rejections at 0.05 ${rejected / runs}`);
    // Four standard errors over 300 runs are 0.05.
    assert.ok(covered / runs > 0.9);
    assert.ok(rejected / runs < 0.1);
  });
});
