import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import { openInThread, type Engine } from '@plumb/tensor-graph/engine';
import { openSampler, type SampleRequest, type SamplerSettings } from './sampler.ts';
import { smallConfig, smallModel } from './testing-model.ts';

let engine: Engine;
before(() => {
  engine = openInThread({});
});
after(() => engine.close());

const settings: SamplerSettings = { steps: 4, guidance: 2, shift: 2 };
const requests: SampleRequest[] = [
  { caption: 'the red ball falls', seed: 1n },
  { caption: 'the blue ball', seed: 2n },
  { caption: 'the red ball falls', seed: 3n },
];

test('a clip depends on its caption and seed, and on nothing else that was sampled with it', async () => {
  const sampler = openSampler(engine, smallModel('a'), 2);
  const together = await sampler.sample(requests, settings);
  const again = await sampler.sample(requests, settings);
  const alone = [];
  for (const request of requests) alone.push((await sampler.sample([request], settings))[0]);
  assert.deepEqual(together, again);
  assert.deepEqual(together, alone);
  assert.notDeepEqual(together[0], together[2]);
});

test('guidance of 1 is the unguided model, and both graphs agree on it', async () => {
  const sampler = openSampler(engine, smallModel('a'), 2);
  const plain = await sampler.sample(requests, { ...settings, guidance: 1 });
  const nearly = await sampler.sample(requests, { ...settings, guidance: 1 + 1e-9 });
  for (const [index, clip] of plain.entries()) {
    const other = nearly[index];
    assert.ok(other !== undefined);
    clip.data.forEach((value, at) => assert.ok(Math.abs(value - (other.data[at] ?? 0)) <= 1));
  }
});

test('every parameterisation samples', async () => {
  for (const parameterisation of ['flow', 'v', 'epsilon'] as const) {
    const sampler = openSampler(engine, smallModel('p', { ...smallConfig, parameterisation }), 2);
    const [clip] = await sampler.sample(requests.slice(0, 1), settings);
    assert.equal(clip?.data.length, 4 * 8 * 8 * 3);
  }
});

test('an unknown word is found before anything is sampled', async () => {
  const sampler = openSampler(engine, smallModel('a'), 2);
  await assert.rejects(
    sampler.sample([...requests, { caption: 'the green ball', seed: 4n }], settings),
    (error: unknown) =>
      error instanceof PlumbError && error.reason === 'PROMPT_UNKNOWN_WORD' && /"green"/.test(error.message),
  );
});

test('settings out of range name the field', async () => {
  const sampler = openSampler(engine, smallModel('a'), 2);
  await assert.rejects(sampler.sample(requests, { ...settings, steps: 0 }), /steps/);
});

test('a model that gives values that are not finite is an error and never a clip', async () => {
  const model = smallModel('broken');
  model.parameters.get('head.out.bias')?.fill(Number.POSITIVE_INFINITY);
  const sampler = openSampler(engine, model, 2);
  await assert.rejects(
    sampler.sample(requests, settings),
    (error: unknown) => error instanceof PlumbError && error.reason === 'NUMERICS_NOT_FINITE',
  );
});

test('one clip that is not finite is an error in its place and leaves its neighbours as they are', async () => {
  const model = smallModel('a');
  const whole = await openSampler(engine, model, 3).sample(requests, settings);
  const words = model.parameters.get('caption.words');
  const { vocabulary, wordWidth } = smallConfig.caption;
  // Row 0 is no word.
  const blue = (1 + vocabulary.indexOf('blue')) * wordWidth;
  words?.fill(3e38, blue, blue + wordWidth);
  const clips = await openSampler(engine, model, 3).sampleEach(requests, settings);
  assert.ok(clips[1] instanceof PlumbError && clips[1].reason === 'NUMERICS_NOT_FINITE');
  assert.deepEqual([clips[0], clips[2]], [whole[0], whole[2]]);
});

test('an aborted call stops', async () => {
  const sampler = openSampler(engine, smallModel('a'), 2);
  await assert.rejects(
    sampler.sample(requests, settings, { signal: AbortSignal.abort(new Error('enough')) }),
    /enough/,
  );
});
