import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { reliability } from './reliability.ts';

const near = (actual: number | undefined, expected: number): void => {
  assert.ok(Math.abs((actual ?? Number.NaN) - expected) < 1e-12, `${actual} is not ${expected}`);
};

test('scores fall into bins of equal width, and empty ones are left out', () => {
  const { bins, error } = reliability([
    { score: 0.05, truth: false },
    { score: 0.05, truth: false },
    { score: 0.72, truth: true },
    { score: 0.78, truth: false },
    { score: 1, truth: true },
  ]);
  assert.deepEqual(
    bins.map(({ count, accepted }) => [count, accepted]),
    [
      [2, 0],
      [2, 0.5],
      [1, 1],
    ],
  );
  near(bins[1]?.score, 0.75);
  // 2/5 * 0.05 + 2/5 * |0.75 - 0.5| + 1/5 * 0
  near(error, 0.12);
  // Wilson's interval of 1 in 2 at 95%.
  assert.deepEqual([bins[1]?.low.toFixed(3), bins[1]?.high.toFixed(3)], ['0.095', '0.905']);
});

test('the error is 0 where scores are the shares, and every sample is in a bin', () => {
  const sure = [0, 1, 1, 0].map((score) => ({ score, truth: score === 1 }));
  near(reliability(sure).error, 0);
  const samples = fc.array(
    fc.record({ score: fc.double({ min: 0, max: 1, noNaN: true }), truth: fc.boolean() }),
    { minLength: 1, maxLength: 50 },
  );
  fc.assert(
    fc.property(samples, fc.integer({ min: 1, max: 20 }), (some, width) => {
      const { bins, error } = reliability(some, width);
      assert.equal(
        bins.reduce((sum, { count }) => sum + count, 0),
        some.length,
      );
      assert.ok(bins.every((bin, at) => at === 0 || bin.score > (bins[at - 1]?.score ?? 0)));
      assert.ok(bins.every(({ low, accepted, high }) => low <= accepted && accepted <= high));
      assert.ok(error >= 0 && error <= 1);
    }),
  );
});

test('what is no score is refused with its place', () => {
  assert.throws(() => reliability([{ score: 1.5, truth: true }]), /samples\[0\]\.score/);
  assert.throws(() => reliability([]), /samples/);
  assert.throws(() => reliability([{ score: 1, truth: true }], 0), /bins/);
});
