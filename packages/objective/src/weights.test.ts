import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { effectiveSampleSize, exponential, normaliseWeights, shaped, threshold } from './weights.ts';

const rewards = fc.array(fc.double({ min: -5, max: 5, noNaN: true }), { minLength: 1, maxLength: 60 });
const prompts = ['a', 'b', 'c'];
const groupsOf = (values: readonly unknown[]): string[] => values.map((_, index) => prompts[index % 3] ?? '');
const mean = (values: ArrayLike<number>): number =>
  Array.from(values).reduce((sum, value) => sum + value, 0) / values.length;
const close = (a: number, b: number, tolerance = 1e-9): void => {
  assert.ok(Math.abs(a - b) <= tolerance * Math.max(1, Math.abs(b)), `${a} is not ${b}`);
};

describe('normaliseWeights', () => {
  test('has mean 1 over the weights above 0, whatever the normalisation', () => {
    fc.assert(
      fc.property(rewards, fc.constantFrom('global' as const, 'per-prompt' as const), (values, how) => {
        const { weights } = normaliseWeights(
          values.map(exponential(0.7)),
          groupsOf(values),
          how,
          Number.MAX_VALUE,
        );
        close(mean(weights.filter((weight) => weight > 0)), 1);
      }),
    );
  });

  test('exp weights do not change when all rewards move by a constant, nor per prompt by one for each prompt', () => {
    fc.assert(
      fc.property(rewards, fc.double({ min: -50, max: 50, noNaN: true }), (values, shift) => {
        const groups = groupsOf(values);
        const weigh = (list: readonly number[], how: 'global' | 'per-prompt'): Float64Array =>
          normaliseWeights(list.map(exponential(0.3)), groups, how, 1e9).weights;
        const moved = weigh(
          values.map((value) => value + shift),
          'global',
        );
        for (const [index, weight] of weigh(values, 'global').entries())
          close(moved[index] ?? NaN, weight, 1e-8);
        const byPrompt = values.map((value, index) => value + shift * (index % 3));
        const movedByPrompt = weigh(byPrompt, 'per-prompt');
        for (const [index, weight] of weigh(values, 'per-prompt').entries()) {
          close(movedByPrompt[index] ?? NaN, weight, 1e-8);
        }
      }),
    );
  });

  test('survives rewards over a tiny temperature, where exp alone overflows', () => {
    const { weights } = normaliseWeights([1, 1, 0.999].map(exponential(1e-6)), ['a', 'a', 'a'], 'global', 10);
    assert.deepEqual([...weights], [1, 1, 0]);
  });

  test('per-prompt weights sum to the number of samples of the prompt: self-normalised importance weights', () => {
    const values = [1, 0, 0, 0, 1, 1];
    const groups = ['hard', 'hard', 'hard', 'hard', 'easy', 'easy'];
    const { weights } = normaliseWeights(values.map(exponential(0.2)), groups, 'per-prompt', 1e9);
    close(mean(weights.slice(0, 4)), 1);
    close(mean(weights.slice(4)), 1);
    close((weights[0] ?? 0) / (weights[1] ?? 0), Math.exp(5));
  });

  test('a prompt without weight drops out, and the others keep mean 1', () => {
    const { weights } = normaliseWeights(
      [0, 0, 1, 0].map(threshold(0.5)),
      ['a', 'a', 'b', 'b'],
      'per-prompt',
      5,
    );
    assert.deepEqual([...weights], [0, 0, 1, 0]);
  });

  test('the cap holds, keeps mean 1 and order, and reports what it moved', () => {
    fc.assert(
      fc.property(rewards, fc.double({ min: 1.05, max: 8, noNaN: true }), (values, limit) => {
        const weigh = (most: number) =>
          normaliseWeights(values.map(exponential(0.4)), groupsOf(values), 'global', most);
        const free = weigh(1e12).weights;
        const { weights, cap } = weigh(limit);
        close(mean(weights.filter((weight) => weight > 0)), 1, 1e-8);
        assert.ok(Math.max(...weights) <= limit * (1 + 1e-9));
        assert.equal(cap.capped > 0, Math.max(...free) > limit * (1 + 1e-9));
        assert.equal(cap.capped, weights.filter((weight) => weight === limit).length);
        assert.equal(cap.massMoved > 0, cap.capped > 0);
        assert.ok(effectiveSampleSize(weights) >= cap.effectiveSampleSizeBefore * (1 - 1e-9));
        for (const i of values.keys()) {
          for (const j of values.keys()) {
            if ((free[i] ?? 0) > (free[j] ?? 0)) assert.ok((weights[i] ?? 0) >= (weights[j] ?? 0) - 1e-9);
          }
        }
      }),
    );
  });

  test('caps by hand: 9, 0.5, 0.5 at most 2 becomes 2, 0.5, 0.5', () => {
    const { weights, cap } = normaliseWeights([9, 0.5, 0.5].map(shaped), ['a', 'a', 'a'], 'global', 2);
    for (const [index, expected] of [2, 0.5, 0.5].entries()) close(weights[index] ?? NaN, expected);
    assert.equal(cap.capped, 1);
    close(cap.largestBefore, 2.7);
    close(cap.massMoved, 0.7 / 3);
  });
});

describe('effectiveSampleSize', () => {
  test('is n for equal weights, 1 for a single one, 0 for none', () => {
    close(effectiveSampleSize([3, 3, 3, 3]), 4);
    close(effectiveSampleSize([0, 7, 0]), 1);
    assert.equal(effectiveSampleSize([0, 0]), 0);
  });

  test('by hand: (1 + 2 + 3)^2 / (1 + 4 + 9)', () => close(effectiveSampleSize([1, 2, 3]), 36 / 14));
});
