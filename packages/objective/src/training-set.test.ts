import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import * as fc from 'fast-check';
import { parseObjectiveSettings } from './settings.ts';
import type { ObjectiveSettingsInput } from './settings.ts';
import { freezeTrainingSet, trainingSetHash } from './training-set.ts';
import type { LabelledSample, TrainingSet } from './training-set.ts';

/** Four samples a prompt, three prompts; `labels` gives the rewards, prompt after prompt. */
function samplesWith(labels: readonly number[], perPrompt = 4): LabelledSample[] {
  return labels.map((reward, index) => {
    const prompt = Math.floor(index / perPrompt);
    return {
      sampleId: `s${String(index).padStart(3, '0')}`,
      promptId: `p${prompt}`,
      category: prompt % 2 === 0 ? 'OR' : 'FD',
      reward,
    };
  });
}

const mixed = samplesWith([1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0]);
const freeze = (
  samples: readonly LabelledSample[],
  settings: ObjectiveSettingsInput,
  seed = 1,
): TrainingSet => freezeTrainingSet(samples, parseObjectiveSettings(settings), seed);

function refusal(run: () => unknown): PlumbError {
  let thrown: unknown;
  try {
    run();
  } catch (error) {
    thrown = error;
  }
  assert.ok(thrown instanceof PlumbError, `threw ${String(thrown)}`);
  return thrown;
}

describe('freezeTrainingSet', () => {
  test('sft: every sample, weight 1, whatever the reward', () => {
    const { items, exclusions } = freeze(mixed, { algorithm: 'sft' });
    assert.equal(items.length, 12);
    assert.ok(items.every(({ weight }) => weight === 1));
    assert.deepEqual(exclusions, []);
  });

  test('filtered-sft: the accepted ones; the others are excluded with their reason', () => {
    const { items, exclusions, statistics } = freeze(mixed, { algorithm: 'filtered-sft' });
    assert.deepEqual(
      items.map((item) => item.kind === 'weighted-sample' && item.sampleId),
      ['s000', 's004', 's005', 's007'],
    );
    assert.ok(exclusions.every(({ reason }) => reason === 'no-weight'));
    assert.equal(exclusions.length, 8);
    assert.deepEqual(statistics.uninformativePrompts, ['p2']);
    assert.equal(statistics.acceptanceRate, 4 / 12);
  });

  test('rwr: an accepted sample weighs exp(1 / temperature) rejected ones', () => {
    const { items, statistics } = freeze(mixed, { algorithm: 'rwr', temperature: 0.5 });
    assert.equal(items.length, 12);
    assert.ok(Math.abs((items[0]?.weight ?? 0) / (items[1]?.weight ?? 1) - Math.exp(2)) < 1e-9);
    assert.ok(statistics.effectiveSampleSize > 1 && statistics.effectiveSampleSize < 12);
    assert.equal(statistics.cap?.capped, 0);
  });

  test('rwr shaped: weights are max(0, eta (r - gamma)), and samples at gamma drop out', () => {
    const { items } = freeze(samplesWith([0.2, 0.5, 0.8, 0.1]), {
      algorithm: 'rwr',
      transform: 'shaped',
      shaping: { eta: 10, gamma: 0.2 },
    });
    assert.equal(items.length, 2);
    assert.ok(Math.abs((items[1]?.weight ?? 0) / (items[0]?.weight ?? 1) - 2) < 1e-9);
  });

  test('dpo: pairs within prompts; prompts of one label are counted as uninformative', () => {
    const { items, exclusions, statistics } = freeze(mixed, { algorithm: 'dpo' });
    assert.equal(items.length, 2);
    for (const item of items)
      assert.ok(item.kind === 'pair' && item.chosenReward === 1 && item.rejectedReward === 0);
    assert.deepEqual(statistics.uninformativePrompts, ['p2']);
    assert.equal(statistics.uninformativePromptRatio, 1 / 3);
    assert.equal(exclusions.filter(({ reason }) => reason === 'no-contrast').length, 4);
    assert.equal(exclusions.filter(({ reason }) => reason === 'not-paired').length, 4);
  });

  test('kto: accepted and rejected have equal mass within a category', () => {
    const { items } = freeze(mixed, { algorithm: 'kto' });
    for (const category of ['OR', 'FD']) {
      const mass = (accepted: boolean): number =>
        items
          .filter(
            (item) =>
              item.kind === 'labelled-sample' && item.category === category && item.accepted === accepted,
          )
          .reduce((sum, { weight }) => sum + weight, 0);
      assert.ok(Math.abs(mass(true) - mass(false)) < 1e-9);
    }
  });

  test('a failed score is excluded with its reason and never becomes a number', () => {
    const failed = {
      sampleId: 'bad',
      promptId: 'p0',
      category: 'OR',
      error: { reason: 'JUDGE_UNAVAILABLE', message: 'timed out' },
    };
    const { items, exclusions, statistics } = freeze([...mixed, failed], { algorithm: 'sft' });
    assert.ok(items.every((item) => item.kind === 'weighted-sample' && item.sampleId !== 'bad'));
    assert.deepEqual(exclusions, [
      { sampleId: 'bad', reason: 'unscored', detail: 'JUDGE_UNAVAILABLE: timed out' },
    ]);
    assert.deepEqual([statistics.samples, statistics.scored], [13, 12]);
  });

  test('the order in which samples arrive changes nothing, down to the hash', () => {
    fc.assert(
      fc.property(
        fc.shuffledSubarray(mixed, { minLength: mixed.length }),
        fc.constantFrom('rwr' as const, 'dpo' as const, 'kto' as const),
        (shuffledSamples, algorithm) => {
          assert.equal(
            trainingSetHash(freeze(shuffledSamples, { algorithm })),
            trainingSetHash(freeze(mixed, { algorithm })),
          );
        },
      ),
    );
    assert.notEqual(
      trainingSetHash(freeze(mixed, { algorithm: 'dpo' }, 1)),
      trainingSetHash(freeze(mixed, { algorithm: 'dpo' }, 2)),
    );
  });

  test('the set is frozen to the bottom, and its hash survives JSON', () => {
    const set = freeze(mixed, { algorithm: 'dpo' });
    assert.throws(() => Object.assign(set.items[0] ?? {}, { weight: 2 }), TypeError);
    assert.throws(() => Object.assign(set.settings.shaping, { eta: 2 }), TypeError);
    const reread: TrainingSet = JSON.parse(JSON.stringify(set));
    assert.equal(trainingSetHash(reread), trainingSetHash(set));
  });

  test('one class only is refused with field and fix by every algorithm that learns from feedback', () => {
    for (const algorithm of ['filtered-sft', 'rwr', 'dpo', 'kto'] as const) {
      for (const label of [0, 1]) {
        const error = refusal(() => freeze(samplesWith(Array<number>(8).fill(label)), { algorithm }));
        assert.equal(error.code, 'FAILED_PRECONDITION');
        assert.equal(error.reason, 'DATASET_UNUSABLE');
        assert.equal(error.fieldViolations?.[0]?.field, 'samples');
        assert.match(error.message, /draw more samples/);
      }
    }
    assert.equal(freeze(samplesWith([1, 1, 1, 1]), { algorithm: 'sft' }).items.length, 4);
  });

  test('per-prompt rwr needs contrast within some prompt, not only between prompts', () => {
    const between = samplesWith([1, 1, 0, 0], 2);
    assert.equal(freeze(between, { algorithm: 'rwr' }).items.length, 4);
    assert.equal(
      refusal(() => freeze(between, { algorithm: 'rwr', normalisation: 'per-prompt' })).code,
      'FAILED_PRECONDITION',
    );
  });

  test('NaN and infinite rewards, doubled samples and prompts of two categories are typed errors that name them', () => {
    const [first] = mixed;
    assert.ok(first !== undefined);
    const nan = refusal(() =>
      freeze([...mixed, { ...first, sampleId: 'odd', reward: NaN }], { algorithm: 'sft' }),
    );
    assert.deepEqual([nan.code, nan.reason], ['INVALID_ARGUMENT', 'NUMERICS_NOT_FINITE']);
    assert.equal(nan.fieldViolations?.[0]?.field, 'samples[odd].reward');
    assert.match(refusal(() => freeze([...mixed, first], { algorithm: 'sft' })).message, /s000.*twice/);
    assert.match(
      refusal(() => freeze([...mixed, { ...first, sampleId: 'x', category: 'FD' }], { algorithm: 'sft' }))
        .message,
      /one category/,
    );
  });

  test('refuses an empty set and one whose scorer mostly failed', () => {
    assert.equal(refusal(() => freeze([], { algorithm: 'sft' })).code, 'FAILED_PRECONDITION');
    const failing = mixed.map(({ sampleId, promptId, category }, index): LabelledSample =>
      index < 4
        ? { sampleId, promptId, category, reward: index % 2 }
        : { sampleId, promptId, category, error: { reason: 'REWARD_FAILED', message: 'no frames' } },
    );
    assert.match(
      refusal(() => freeze(failing, { algorithm: 'rwr' })).message,
      /8 of 12 have no score.*REWARD_FAILED/,
    );
    assert.equal(freeze(failing, { algorithm: 'rwr', maxUnscoredShare: 0.9 }).items.length, 4);
  });
});
