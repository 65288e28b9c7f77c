import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { PlumbError } from '@plumb/kit/errors';
import { ModelVersionSchema, SamplerSettingsSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { resolveModel, samplerViolations, weightsOf } from './models.ts';

function version(name: string, digit: string): ModelVersion {
  const sha256 = digit.repeat(64);
  return create(ModelVersionSchema, {
    version: `${name}@${sha256.slice(0, 12)}`,
    model: name,
    weights: { uri: `artifact:sha256/${sha256}`, sha256 },
  });
}

const toybox = version('toybox', 'a');
const newer = version('toybox', 'b');
const other = version('other', 'c');

function catalogue(promoted: readonly ModelVersion[]) {
  return {
    versions: new Map([toybox, newer, other].map((model) => [model.version, model])),
    promoted: new Map(promoted.map((model) => [model.model, model])),
  };
}

const code = (expected: string) => (error: unknown) => error instanceof PlumbError && error.code === expected;

test('a version, a promoted version, or nothing where one line is promoted', () => {
  assert.equal(resolveModel(catalogue([]), toybox.version), toybox);
  assert.equal(resolveModel(catalogue([newer, other]), 'toybox@promoted'), newer);
  assert.equal(resolveModel(catalogue([newer]), ''), newer);
});

test('a name that says too little, or something that is not there, is a typed error', () => {
  assert.throws(() => resolveModel(catalogue([]), ''), code('FAILED_PRECONDITION'));
  assert.throws(() => resolveModel(catalogue([newer, other]), ''), code('FAILED_PRECONDITION'));
  assert.throws(() => resolveModel(catalogue([other]), 'toybox@promoted'), code('NOT_FOUND'));
  assert.throws(() => resolveModel(catalogue([]), 'toybox@dddddddddddd'), code('NOT_FOUND'));
  assert.throws(() => resolveModel(catalogue([]), '../toybox'), code('INVALID_ARGUMENT'));
});

test('a version must be that of its weights', () => {
  assert.equal(weightsOf(toybox, 'model').sha256, 'a'.repeat(64));
  assert.throws(() => weightsOf({ ...toybox, version: newer.version }, 'model'), code('INVALID_ARGUMENT'));
  assert.throws(() => weightsOf(undefined, 'model'), code('INVALID_ARGUMENT'));
});

test('sampler settings out of range are named', () => {
  const bad = create(SamplerSettingsSchema, { steps: 0, guidance: NaN, shift: 0 });
  assert.deepEqual(
    samplerViolations(bad, 'sampler').map(({ field }) => field),
    ['sampler.steps', 'sampler.guidance', 'sampler.shift'],
  );
  assert.deepEqual(
    samplerViolations(create(SamplerSettingsSchema, { steps: 20, guidance: 1, shift: 1 }), 'sampler'),
    [],
  );
});
