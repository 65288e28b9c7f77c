import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createRateMeter } from './rate-meter.ts';

test('there is no rate before something has moved', () => {
  const meter = createRateMeter();
  assert.equal(meter.perSecond(), undefined);
  meter.observe(500, 0);
  meter.observe(500, 1000);
  assert.equal(meter.perSecond(), undefined);
});

test('what was done before the first observation does not count', () => {
  const meter = createRateMeter();
  meter.observe(900, 10_000);
  meter.observe(910, 12_000);
  assert.equal(meter.perSecond(), 5);
});

test('the rate follows a change of speed within the window', () => {
  const meter = createRateMeter();
  for (let second = 0; second <= 40; second += 1) meter.observe(second * 10, second * 1000);
  for (let second = 41; second <= 80; second += 1) meter.observe(400 + (second - 40) * 2, second * 1000);
  assert.ok(Math.abs((meter.perSecond() ?? 0) - 2) < 1e-9);
});

test('waiting for its turn is not part of the rate', () => {
  const meter = createRateMeter();
  for (let second = 0; second <= 300; second += 1) meter.observe(0, second * 1000);
  meter.observe(5, 301_000);
  assert.equal(meter.perSecond(), 5);
});
