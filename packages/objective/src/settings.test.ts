import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import { algorithms } from './algorithms.ts';
import { parseObjectiveSettings, settingsSchemas } from './settings.ts';

function violations(input: unknown): string[] {
  try {
    parseObjectiveSettings(input);
  } catch (error) {
    assert.ok(error instanceof PlumbError);
    assert.equal(error.code, 'INVALID_ARGUMENT');
    return (error.fieldViolations ?? []).map(({ field }) => field);
  }
  return [];
}

test('every row of the table has settings, and its name alone is complete', () => {
  assert.deepEqual(Object.keys(settingsSchemas), Object.keys(algorithms));
  for (const algorithm of Object.keys(algorithms))
    assert.equal(parseObjectiveSettings({ algorithm }).algorithm, algorithm);
});

test('defaults of rwr and dpo', () => {
  const rwr = parseObjectiveSettings({ algorithm: 'rwr' });
  assert.ok(rwr.algorithm === 'rwr');
  assert.deepEqual(
    [rwr.transform, rwr.temperature, rwr.weighting, rwr.balance],
    ['exp', 0.2, 'resample', 'category'],
  );
  const dpo = parseObjectiveSettings({ algorithm: 'dpo' });
  assert.ok(dpo.algorithm === 'dpo');
  assert.deepEqual([dpo.beta, dpo.pairs], [500, 'binary']);
});

test('names every bad field at once', () => {
  assert.deepEqual(
    violations({
      algorithm: 'rwr',
      temperature: 0,
      maxWeight: 1,
      shaping: { eta: 0, gamma: NaN },
    }).toSorted(),
    ['objective.maxWeight', 'objective.shaping.eta', 'objective.shaping.gamma', 'objective.temperature'],
  );
});

test('refuses unknown algorithms, settings of another algorithm and contradictions', () => {
  assert.deepEqual(violations({ algorithm: 'ppo' }), ['objective.algorithm']);
  assert.equal(violations({ algorithm: 'dpo', temperature: 0.2 }).length, 1);
  assert.deepEqual(violations({ algorithm: 'dpo', minMargin: 0.3 }), ['objective.minMargin']);
  assert.deepEqual(violations({ algorithm: 'rwr', transform: 'shaped', shaping: { clip: [-2, 0] } }), [
    'objective.shaping.clip',
    'objective.acceptThreshold',
  ]);
  assert.deepEqual(violations({ algorithm: 'kto', shaping: { clip: [1, 0] } }), ['objective.shaping.clip']);
});
