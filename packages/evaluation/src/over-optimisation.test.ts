import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { detectOverOptimisation } from './over-optimisation.ts';
import type { ProbePoint } from './over-optimisation.ts';

const series = (trained: readonly number[], heldOut: readonly number[]): ProbePoint[] =>
  trained.map((value, index) => ({ step: index * 100, trained: value, heldOut: heldOut[index] ?? NaN }));

describe('detectOverOptimisation', () => {
  test('both rising is fine, and the last checkpoint is best', () => {
    const result = detectOverOptimisation(series([0.4, 0.5, 0.6], [0.4, 0.5, 0.55]));
    assert.deepEqual([result.detected, result.bestStep, result.correlation], [false, 200, 1]);
  });

  test('the reward rises while the held-out judge falls: reported with the step to go back to', () => {
    const result = detectOverOptimisation(series([0.4, 0.5, 0.6, 0.7], [0.4, 0.5, 0.45, 0.3]));
    assert.equal(result.detected, true);
    assert.equal(result.bestStep, 100);
    assert.deepEqual([result.findings[0]?.kind, result.findings[0]?.since], ['diverging', 200]);
    assert.match(
      result.findings[0]?.sentence ?? '',
      /From step 100 to 300 .* rose from 0\.500 to 0\.700 .* fell from 0\.500 to 0\.300/,
    );
  });

  test('both falling is a bad run, but not over-optimisation', () => {
    assert.equal(detectOverOptimisation(series([0.5, 0.4, 0.3], [0.5, 0.4, 0.3])).detected, false);
  });

  test('a dip that recovers, or one within the tolerance, is not reported', () => {
    assert.equal(detectOverOptimisation(series([0.4, 0.5, 0.6], [0.5, 0.3, 0.6])).detected, false);
    assert.equal(detectOverOptimisation(series([0.4, 0.5], [0.5, 0.49])).detected, false);
  });

  test('patience asks for that many points in a row', () => {
    const points = series([0.4, 0.5, 0.6], [0.5, 0.5, 0.4]);
    assert.equal(detectOverOptimisation(points, { patience: 2 }).detected, false);
    const longer = series([0.4, 0.5, 0.6, 0.7], [0.5, 0.5, 0.4, 0.4]);
    assert.equal(detectOverOptimisation(longer, { patience: 2 }).findings[0]?.since, 200);
  });

  test('a guard that falls while the reward rises is a degenerate cure, whatever the judge says', () => {
    const points = [
      { step: 0, trained: 1, heldOut: 0.5, guards: { motion: 0.9, persistence: 0.9 } },
      { step: 1, trained: 2, heldOut: 0.6, guards: { motion: 0.3, persistence: 0.88 } },
    ];
    const { findings } = detectOverOptimisation(points);
    assert.deepEqual(
      findings.map(({ kind, guard }) => [kind, guard]),
      [['degenerate-cure', 'motion']],
    );
  });

  test('refuses no points, steps that do not rise and values that are not finite', () => {
    assert.throws(() => detectOverOptimisation([]), /empty/);
    assert.throws(
      () => detectOverOptimisation([...series([1], [1]), ...series([1], [1])]),
      /steps must rise/,
    );
    assert.throws(() => detectOverOptimisation(series([NaN], [1])), /finite/);
  });
});
