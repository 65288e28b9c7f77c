import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import * as fc from 'fast-check';
import { mismatchPrompts, planBatches } from './batches.ts';
import type { BatchPlanOptions, Drawable } from './batches.ts';

const options = (changes: Partial<BatchPlanOptions> = {}): BatchPlanOptions => ({
  seed: 1,
  batchSize: 8,
  balance: 'category',
  weighting: 'resample',
  ...changes,
});

const anyItems = fc.array(
  fc.record({
    weight: fc.double({ min: 0.01, max: 20, noNaN: true }),
    category: fc.constantFrom('OR', 'MO', 'FD'),
    promptId: fc.constantFrom('p0', 'p1', 'p2', 'p3'),
  }),
  { minLength: 1, maxLength: 50 },
);
const anyOptions = fc.record({
  seed: fc.integer(),
  batchSize: fc.integer({ min: 1, max: 20 }),
  balance: fc.constantFrom('none' as const, 'category' as const, 'prompt' as const),
  weighting: fc.constantFrom('resample' as const, 'multiply' as const),
});

function code(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    assert.ok(error instanceof PlumbError);
    return error.code;
  }
  return 'none';
}

function counts(items: readonly Drawable[], plan: ReturnType<typeof planBatches>, epochs: number): number[] {
  const result = items.map(() => 0);
  for (let step = 0; step < epochs * plan.stepsPerEpoch; step++) {
    for (const index of plan.batch(step).indices) result[index] = (result[index] ?? 0) + 1;
  }
  return result;
}

describe('planBatches', () => {
  test('an epoch draws every item floor or ceil of its expected number of times', () => {
    fc.assert(
      fc.property(anyItems, anyOptions, (items, chosen) => {
        const plan = planBatches(items, chosen);
        const draws = plan.stepsPerEpoch * chosen.batchSize;
        for (const [index, drawn] of counts(items, plan, 1).entries()) {
          const expected = draws * (plan.probabilities[index] ?? 0);
          assert.ok(Math.abs(drawn - expected) < 1 + 1e-6, `drawn ${drawn}, expected ${expected}`);
        }
      }),
    );
  });

  test('loss weights make up exactly for the draw: probability times loss weight is the balanced weight', () => {
    fc.assert(
      fc.property(anyItems, anyOptions, (items, chosen) => {
        const resampled = planBatches(items, { ...chosen, weighting: 'resample' });
        const multiplied = planBatches(items, { ...chosen, weighting: 'multiply' });
        const { indices, lossWeights } = multiplied.batch(0);
        for (const [place, index] of indices.entries()) {
          const product = (multiplied.probabilities[index] ?? 0) * (lossWeights[place] ?? 0);
          assert.ok(Math.abs(product - (resampled.probabilities[index] ?? 0)) < 1e-6);
        }
        assert.ok(resampled.batch(0).lossWeights.every((weight) => weight === 1));
      }),
    );
  });

  test('a step follows from seed and number alone: order of asking and fresh plans do not matter', () => {
    fc.assert(
      fc.property(anyItems, anyOptions, fc.integer({ min: 0, max: 40 }), (items, chosen, step) => {
        const used = planBatches(items, chosen);
        for (const other of [step + 9, 0, step + 1]) used.batch(other);
        assert.deepEqual(used.batch(step), planBatches(items, chosen).batch(step));
      }),
    );
  });

  test('other seeds give other batches', () => {
    const items = Array.from({ length: 64 }, (_, index) => ({
      weight: 1,
      category: 'OR',
      promptId: `p${index}`,
    }));
    assert.notDeepEqual(
      planBatches(items, options({ seed: 1 })).batch(0),
      planBatches(items, options({ seed: 2 })).batch(0),
    );
  });

  test('equal weights: an epoch is a shuffled pass, each item once', () => {
    const items = Array.from({ length: 64 }, (_, index) => ({
      weight: 1,
      category: index < 32 ? 'OR' : 'FD',
      promptId: 'p',
    }));
    assert.deepEqual(new Set(counts(items, planBatches(items, options()), 1)), new Set([1]));
  });

  test('every batch holds the categories evenly, even where one has few samples or little weight', () => {
    const items = Array.from({ length: 100 }, (_, index) => ({
      weight: index < 90 ? 5 : 0.1,
      category: index < 90 ? 'easy' : 'hard',
      promptId: `p${index}`,
    }));
    const plan = planBatches(items, options({ batchSize: 10 }));
    for (let step = 0; step < 30; step++) {
      const hard = plan.batch(step).indices.filter((index) => index >= 90).length;
      assert.ok(hard >= 4 && hard <= 6, `batch ${step} holds ${hard} of 10`);
    }
  });

  test('frequencies over many epochs approach the probabilities', () => {
    const weights = [0.2, 1, 3, 0.4, 0.4, 7, 0.05];
    const items = weights.map((weight, index) => ({
      weight,
      category: index < 4 ? 'OR' : 'FD',
      promptId: `p${index}`,
    }));
    const plan = planBatches(items, options({ batchSize: 3 }));
    const epochs = 2000;
    const draws = epochs * plan.stepsPerEpoch * 3;
    for (const [index, drawn] of counts(items, plan, epochs).entries()) {
      const weight = weights[index] ?? 0;
      const expected = 0.5 * (index < 4 ? weight / 4.6 : weight / 7.45);
      // Five standard errors of an independent draw, which systematic resampling undercuts.
      const tolerance = 5 * Math.sqrt((expected * (1 - expected)) / draws);
      assert.ok(
        Math.abs(drawn / draws - expected) < tolerance,
        `item ${index}: ${drawn / draws}, ${expected}`,
      );
    }
  });

  test('refuses what it cannot draw from', () => {
    const item = { weight: 1, category: 'OR', promptId: 'p' };
    assert.equal(
      code(() => planBatches([], options())),
      'FAILED_PRECONDITION',
    );
    assert.equal(
      code(() => planBatches([item, { ...item, weight: 0 }], options())),
      'INVALID_ARGUMENT',
    );
    assert.equal(
      code(() => planBatches([{ ...item, weight: NaN }], options())),
      'INVALID_ARGUMENT',
    );
    assert.equal(
      code(() => planBatches([item], options({ batchSize: 0 }))),
      'INVALID_ARGUMENT',
    );
    assert.equal(
      code(() => planBatches([item], options()).batch(-1)),
      'INVALID_ARGUMENT',
    );
  });
});

describe('mismatchPrompts', () => {
  test('gives every position another prompt, and each position to one other', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('a', 'b', 'c', 'd'), { minLength: 2, maxLength: 30 }), (ids) => {
        const largest = Math.max(
          ...Object.values(Object.groupBy(ids, (id) => id)).map((g) => g?.length ?? 0),
        );
        if (2 * largest > ids.length) {
          assert.throws(() => mismatchPrompts(ids), PlumbError);
          return;
        }
        const taken = mismatchPrompts(ids);
        assert.equal(new Set(taken).size, ids.length);
        for (const [position, source] of taken.entries()) assert.notEqual(ids[source], ids[position]);
      }),
    );
  });
});
