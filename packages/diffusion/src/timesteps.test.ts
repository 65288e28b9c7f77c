import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { randomGenerator } from './random.ts';
import { drawTimestep, samplerTimes, timestepDistributionSchema } from './timesteps.ts';

test('sampler times fall strictly from 1 to 0, whatever the shift', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 200 }),
      fc.double({ min: 0.05, max: 50, noNaN: true }),
      (steps, shift) => {
        const times = samplerTimes(steps, shift);
        assert.equal(times.length, steps + 1);
        assert.equal(times[0], 1);
        assert.equal(times[steps], 0);
        for (let i = 1; i <= steps; i++) assert.ok((times[i] ?? 1) < (times[i - 1] ?? 0));
      },
    ),
  );
});

test('a shift above 1 spends more steps on noisy times', () => {
  const share = (shift: number): number => [...samplerTimes(20, shift)].filter((t) => t > 0.5).length;
  assert.ok(share(3.5) > share(1));
});

test('draws are in (0, 1), repeat from their seed, and follow their distribution', () => {
  const mean = (distribution: Parameters<typeof drawTimestep>[0]): number => {
    const random = randomGenerator('timesteps');
    let sum = 0;
    for (let i = 0; i < 20_000; i++) {
      const t = drawTimestep(distribution, random);
      assert.ok(t > 0 && t < 1);
      sum += t;
    }
    return sum / 20_000;
  };
  assert.ok(Math.abs(mean({ kind: 'uniform' }) - 0.5) < 0.01);
  assert.ok(Math.abs(mean({ kind: 'window', low: 0.9, high: 1 }) - 0.95) < 0.005);
  assert.ok(Math.abs(mean({ kind: 'logit-normal', mean: 0, std: 1 }) - 0.5) < 0.01);
  assert.ok(mean({ kind: 'logit-normal', mean: 1.3, std: 1.3 }) > 0.68);
  assert.equal(mean({ kind: 'uniform' }), mean({ kind: 'uniform' }));
});

test('an empty window is refused', () => {
  const parsed = timestepDistributionSchema.safeParse({ kind: 'window', low: 0.9, high: 0.5 });
  assert.equal(parsed.success, false);
});
