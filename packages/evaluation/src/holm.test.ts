import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { holm } from './holm.ts';

const rounded = (values: readonly number[]): number[] => values.map((value) => Number(value.toFixed(6)));

// Wikipedia, "Holm-Bonferroni method": at level 0.05 the first and last are rejected, the others are not.
test('worked example', () => {
  assert.deepEqual(rounded(holm([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02]);
});

test('adjusted values keep the order, are at least the original and at most Bonferroni', () => {
  fc.assert(
    fc.property(fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 8 }), (pValues) => {
      const adjusted = holm(pValues);
      for (const [i, p] of pValues.entries()) {
        assert.ok((adjusted[i] ?? 0) >= p && (adjusted[i] ?? 2) <= Math.min(1, p * pValues.length) + 1e-12);
        for (const [j, q] of pValues.entries())
          if (p < q) assert.ok((adjusted[i] ?? 1) <= (adjusted[j] ?? 0));
      }
    }),
  );
});

test('refuses what is no p-value', () => {
  assert.throws(() => holm([0.1, NaN]), /pValues\[1\]/);
});
