import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import { writeSafetensors } from '@plumb/tensor-graph/safetensors';
import { decodeState, encodeState } from './state-file.ts';

const state = {
  step: 7,
  parameters: { 'a/b': Float32Array.of(1, 2), c: Float32Array.of(-0) },
  firstMoment: { 'a/b': Float32Array.of(3, 4), c: Float32Array.of(5) },
  secondMoment: { 'a/b': Float32Array.of(6, 1e-38), c: Float32Array.of(8) },
  ema: {},
};

const isDataLoss = (error: unknown): boolean => error instanceof PlumbError && error.code === 'DATA_LOSS';

test('a training state comes back bit for bit', () => {
  const read = decodeState(encodeState(state));
  assert.equal(read.step, 7);
  assert.deepEqual(read, state);
  assert.ok(Object.is(read.parameters['c']?.[0], -0));
});

test('equal states have equal files', () => {
  assert.deepEqual(encodeState(decodeState(encodeState(state))), encodeState(state));
});

test('a file that is no checkpoint is DATA_LOSS', () => {
  const other = new Map([['weights', { dtype: 'float32' as const, shape: [1], data: Float32Array.of(1) }]]);
  assert.throws(() => decodeState(writeSafetensors(other, {})), isDataLoss);
  assert.throws(() => decodeState(writeSafetensors(other, { 'plumb.training.step': '3' })), isDataLoss);
});
