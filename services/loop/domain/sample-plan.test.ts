import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { modelFixture, specFixture } from '../testing/run-spec-fixture.ts';
import { clipKeyOf, modelVersionOf, noiseSeedOf, runIdOf, sampleIdOf } from './identity.ts';
import { groupSize, plannedSamples, rewardsOf } from './sample-plan.ts';

const spec = specFixture();
const model = modelFixture();
const key = { spec, runId: 'run-1', iteration: 1, model } as const;

describe('planned samples', () => {
  test('every prompt of the split, as often as asked, each with an id of its own', () => {
    const samples = [...plannedSamples({ ...key, group: 'train' })];
    assert.equal(samples.length, groupSize(spec, 'train'));
    assert.equal(new Set(samples.map(({ id }) => id)).size, samples.length);
    assert.ok(samples.every(({ promptId }) => promptId.includes('/train/')));
    assert.deepEqual(
      samples.map(({ position }) => position),
      samples.map((_, index) => index),
    );
  });

  test('early samples speak for all prompts and categories', () => {
    const samples = [...plannedSamples({ ...key, group: 'train' })];
    assert.deepEqual(
      samples.slice(0, 4).map(({ promptId }) => promptId),
      ['DM/train/0', 'FD/train/0', 'DM/train/1', 'FD/train/1'],
    );
    assert.equal(new Set(samples.slice(0, 6).map(({ promptId }) => promptId)).size, 6);
  });

  test('held-out samples have the same seeds for both models and in every iteration', () => {
    const other = modelFixture('c'.repeat(64));
    const before = [...plannedSamples({ ...key, group: 'before' })];
    const after = [...plannedSamples({ ...key, group: 'after', iteration: 2, model: other })];
    assert.deepEqual(
      before.map(({ seed }) => seed),
      after.map(({ seed }) => seed),
    );
    assert.equal(new Set([...before, ...after].map(({ id }) => id)).size, before.length * 2);
    assert.ok(before.every(({ clipKey }, index) => clipKey !== after[index]?.clipKey));
  });

  test('two runs with one seed draw the same clips; training clips are fresh in a later iteration', () => {
    const keys = (options: { runId?: string; iteration?: number }) =>
      [...plannedSamples({ ...key, ...options, group: 'train' })].map(({ clipKey }) => clipKey);
    assert.deepEqual(keys({ runId: 'run-2' }), keys({}));
    assert.equal(new Set([...keys({}), ...keys({ iteration: 2 })]).size, keys({}).length * 2);
  });

  test('held-out samples are scored with the evaluation rewards as well, each once', () => {
    const evaluation = { ...specFixture().evaluation, heldOutReward: 'flow', reward: 'aif' };
    const withHeldOut = { ...spec, evaluation } as typeof spec;
    assert.deepEqual(rewardsOf(withHeldOut, 'train'), ['aif']);
    assert.deepEqual(rewardsOf(withHeldOut, 'before'), ['aif', 'flow']);
  });
});

describe('identity', () => {
  test('ids and seeds never change: a ledger of an earlier version is understood', () => {
    assert.equal(runIdOf('demo'), 'run-7ab34b55fa6da9cd');
    const identity = {
      runId: 'r',
      iteration: 1,
      split: 'train',
      modelVersion: 'm',
      promptId: 'p',
      sampleIndex: 0,
    } as const;
    assert.equal(sampleIdOf(identity), 'f24cbbaeada82c9b96d9da25c3461dd9');
    assert.equal(
      noiseSeedOf({ runSeed: 1n, iteration: 1, group: 'train', promptId: 'p', sampleIndex: 0 }),
      3308422906403496469n,
    );
  });

  test('a clip key tells everything apart that changes a clip', () => {
    const options = {
      modelSha256: 'a',
      promptText: 'b',
      seed: 1n,
      sampler: { steps: 2, guidance: 3, shift: 4 },
    };
    const keys = [
      options,
      { ...options, modelSha256: 'x' },
      { ...options, promptText: 'x' },
      { ...options, seed: 2n },
      { ...options, sampler: { ...options.sampler, steps: 3 } },
      { ...options, sampler: { ...options.sampler, guidance: 4 } },
      { ...options, sampler: { ...options.sampler, shift: 5 } },
    ].map(clipKeyOf);
    assert.equal(new Set(keys).size, keys.length);
  });

  test('a version is its line and the first twelve digits of its weights', () => {
    assert.equal(modelVersionOf('toy', '0123456789abcdef'), 'toy@0123456789ab');
  });
});
