import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import { wilsonInterval } from './wilson.ts';

// Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
for (const [successes, trials, lower, upper] of [
  [81, 263, 0.2553, 0.3662],
  [15, 148, 0.0624, 0.1605],
  [0, 20, 0, 0.1611],
  [1, 29, 0.0061, 0.1718],
] as const) {
  test(`published interval of ${successes} in ${trials}`, () => {
    const interval = wilsonInterval(successes, trials);
    assert.equal(interval.lower.toFixed(4), lower.toFixed(4));
    assert.equal(interval.upper.toFixed(4), upper.toFixed(4));
  });
}

test('is symmetric between successes and failures, and stays within [0, 1]', () => {
  const few = wilsonInterval(0, 5);
  const all = wilsonInterval(5, 5);
  assert.deepEqual([few.lower, all.upper], [0, 1]);
  assert.ok(Math.abs(few.upper - (1 - all.lower)) < 1e-12);
});

test('refuses impossible counts', () => {
  for (const run of [() => wilsonInterval(0, 0), () => wilsonInterval(3, 2), () => wilsonInterval(1, 2, 1)]) {
    assert.throws(run, (error) => error instanceof PlumbError && error.code === 'INVALID_ARGUMENT');
  }
});
