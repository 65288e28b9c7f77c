import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import { videoModelConfigSchema } from './config.ts';
import { decodeModel, encodeModel, initialiseModel } from './model-file.ts';
import { smallConfig, smallModel } from './testing-model.ts';
import { parameterCount } from './video-dit.ts';

const dataLoss = (mention: RegExp) => (error: unknown) =>
  error instanceof PlumbError && error.code === 'DATA_LOSS' && mention.test(error.message);

test('a model survives its file bit for bit', () => {
  const model = smallModel('file');
  const again = decodeModel(encodeModel(model), 'small');
  assert.deepEqual(again.config, model.config);
  for (const [name, values] of model.parameters) assert.deepEqual(again.parameters.get(name), values);
});

test('the same seed gives the same weights, another seed others', () => {
  const bytes = (seed: string): Buffer => Buffer.from(encodeModel(initialiseModel(smallConfig, seed)));
  assert.ok(bytes('a').equals(bytes('a')));
  assert.ok(!bytes('a').equals(bytes('b')));
});

test('damage is named', () => {
  const bytes = encodeModel(smallModel('damage'));
  assert.throws(() => decodeModel(bytes.slice(0, 20), 'cut.safetensors'), dataLoss(/./));
  assert.throws(() => decodeModel(bytes.slice(0, bytes.length - 4), 'cut.safetensors'), dataLoss(/./));
  const model = smallModel('damage');
  const values = model.parameters.get('patch.weight');
  assert.ok(values !== undefined);
  values[3] = Number.NaN;
  assert.throws(
    () => decodeModel(encodeModel(model), 'nan.safetensors'),
    dataLoss(/nan\.safetensors.*patch\.weight.*finite/),
  );
});

test('a config that contradicts itself is refused with the field', () => {
  const parsed = videoModelConfigSchema.safeParse({
    ...smallConfig,
    patch: { frames: 3, height: 4, width: 4 },
  });
  assert.equal(parsed.success, false);
  assert.deepEqual(parsed.error?.issues[0]?.path, ['patch', 'frames']);
});

test('the number of weights is that of the file', () => {
  const total = [...smallModel('count').parameters.values()].reduce((sum, values) => sum + values.length, 0);
  assert.equal(parameterCount(smallConfig), total);
});
