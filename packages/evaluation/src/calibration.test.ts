import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  brierScore,
  calibrate,
  calibrationMappingSchema,
  fitIsotonic,
  fitPlatt,
  recommendThreshold,
} from './calibration.ts';

const samplesArbitrary = fc
  .array(fc.record({ score: fc.double({ min: 0, max: 1, noNaN: true }), truth: fc.boolean() }), {
    minLength: 2,
    maxLength: 60,
  })
  .filter((samples) => new Set(samples.map(({ truth }) => truth)).size === 2);

test('a fitted mapping never falls where it may not, and stays within 0 and 1', () => {
  fc.assert(
    fc.property(samplesArbitrary, (samples) => {
      const isotonic = calibrationMappingSchema.parse(fitIsotonic(samples));
      const grid = Array.from({ length: 51 }, (_, at) => calibrate(isotonic, at / 50));
      assert.ok(grid.every((value, at) => value >= (grid[at - 1] ?? 0) - 1e-12 && value <= 1));
      const platt = fitPlatt(samples);
      const fitted = grid.map((_, at) => calibrate(platt, at / 50));
      assert.ok(
        fitted.every((value) => value >= 0 && value <= 1),
        JSON.stringify(platt),
      );
    }),
  );
});

test('isotonic regression is the best of all rising mappings on its own data', () => {
  fc.assert(
    fc.property(samplesArbitrary, (samples) => {
      const mapping = fitIsotonic(samples);
      const fitted = samples.map((sample) => ({ ...sample, score: calibrate(mapping, sample.score) }));
      assert.ok(brierScore(fitted) <= brierScore(samples) + 1e-9);
      const mean = samples.filter(({ truth }) => truth).length / samples.length;
      const average = fitted.reduce((sum, { score }) => sum + score, 0) / fitted.length;
      assert.ok(Math.abs(mean - average) < 1e-9, 'its mean is the share of accepted clips');
    }),
  );
});

test('pooled by hand: 1 at 0.2, 0 at 0.4, 1 at 0.9', () => {
  const mapping = fitIsotonic([
    { score: 0.2, truth: true },
    { score: 0.4, truth: false },
    { score: 0.9, truth: true },
  ]);
  assert.deepEqual(mapping, { method: 'isotonic', scores: [0.2, 0.4, 0.9], probabilities: [0.5, 0.5, 1] });
  assert.equal(calibrate(mapping, 0.65), 0.75);
});

test("Platt's fit recovers a logistic curve", () => {
  const samples = Array.from({ length: 20_000 }, (_, at) => {
    const score = (at % 200) / 199;
    // The same share of accepted clips at each score as the curve says, spread without chance.
    return { score, truth: (Math.floor(at / 200) + 0.5) / 100 < 1 / (1 + Math.exp(-(6 * score - 2))) };
  });
  const mapping = fitPlatt(samples);
  assert.ok(mapping.method === 'platt');
  assert.ok(
    Math.abs(mapping.slope - 6) < 0.1 && Math.abs(mapping.intercept + 2) < 0.05,
    JSON.stringify(mapping),
  );
});

test('the threshold separates what can be separated', () => {
  const found = recommendThreshold([
    { score: 0.6, truth: false },
    { score: 0.7, truth: false },
    { score: 0.9, truth: true },
  ]);
  assert.ok(Math.abs(found.threshold - 0.8) < 1e-9);
  assert.deepEqual([found.sensitivity, found.specificity], [1, 1]);
  assert.throws(
    () => recommendThreshold([{ score: 1, truth: true }]),
    /0 rejected clips; label some of both/,
  );
});
