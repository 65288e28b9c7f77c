import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import * as fc from 'fast-check';
import { divergenceGuard } from './divergence.ts';

const cause = (expected: string) => (error: unknown) =>
  error instanceof PlumbError && error.reason === 'TRAINING_DIVERGED' && error.metadata['cause'] === expected;

function settled(maxAnchorDistance?: number) {
  const guard = divergenceGuard({ maxAnchorDistance });
  for (let step = 1; step <= 30; step++) guard.check({ step, loss: 1 + (step % 3) * 0.01, gradientNorm: 1 });
  return guard;
}

test('a loss or gradient that is not finite stops at once', () => {
  for (const [loss, gradientNorm] of [
    [NaN, 1],
    [Infinity, 1],
    [1, NaN],
  ] as const) {
    assert.throws(
      () => divergenceGuard({ maxAnchorDistance: undefined }).check({ step: 1, loss, gradientNorm }),
      cause('not-finite'),
    );
  }
});

test('a float16 gradient that overflowed is for the engine to judge, a loss is not', () => {
  const guard = settled();
  guard.check({ step: 31, loss: 1, gradientNorm: Infinity, lossScale: 32_768 });
  assert.throws(() => {
    guard.check({ step: 32, loss: NaN, gradientNorm: Infinity, lossScale: 16_384 });
  }, cause('not-finite'));
});

test('one high loss is forgiven, three in a row are not', () => {
  const guard = settled();
  guard.check({ step: 31, loss: 9, gradientNorm: 1 });
  guard.check({ step: 32, loss: 1, gradientNorm: 1 });
  guard.check({ step: 33, loss: 9, gradientNorm: 1 });
  guard.check({ step: 34, loss: 9, gradientNorm: 1 });
  assert.throws(() => {
    guard.check({ step: 35, loss: 9, gradientNorm: 1 });
  }, cause('loss-spike'));
});

test('the anchor distance has a limit where one is set', () => {
  settled().check({ step: 31, loss: 1, gradientNorm: 1, anchorDistance: 5 });
  const guard = settled(0.5);
  guard.check({ step: 31, loss: 1, gradientNorm: 1, anchorDistance: 0.5 });
  assert.throws(() => {
    guard.check({ step: 32, loss: 1, gradientNorm: 1, anchorDistance: 0.51 });
  }, cause('anchor-distance'));
  assert.throws(() => {
    guard.check({ step: 33, loss: 1, gradientNorm: 1, anchorDistance: NaN });
  }, cause('anchor-distance'));
});

test('losses that stay within twice their level never count as spikes', () => {
  const losses = fc.array(fc.double({ min: 0.5, max: 0.99, noNaN: true }), { minLength: 30, maxLength: 200 });
  fc.assert(
    fc.property(losses, (values) => {
      const guard = divergenceGuard({ maxAnchorDistance: undefined });
      for (const [index, loss] of values.entries()) guard.check({ step: index + 1, loss, gradientNorm: 1 });
    }),
  );
});
