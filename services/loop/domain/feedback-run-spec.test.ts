import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import type { PlumbError } from '@plumb/kit/errors';
import { parsePromptSet } from '@plumb/prompts';
import { Category, Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { parse } from 'yaml';
import { modelFixture } from '../testing/run-spec-fixture.ts';
import { parseFeedbackRunSpec } from './feedback-run-spec.ts';
import { specViolations, withDefaults } from './run-spec.ts';

const shipped = async (path: string): Promise<string> =>
  await readFile(new URL(`../../../${path}`, import.meta.url), 'utf8');
const set: unknown = JSON.parse(await shipped('prompts/toybox.json'));

/** Fields of what is refused. */
function refused(spec: unknown): string[] {
  let fields: string[] | undefined;
  assert.throws(
    () => parseFeedbackRunSpec(spec, 'mine'),
    (error: PlumbError) => {
      fields = error.fieldViolations?.map(({ field }) => field);
      return error.code === 'INVALID_ARGUMENT';
    },
  );
  return fields ?? [];
}

test('a shipped spec with its model and prompts written out is a valid run', async () => {
  const spec = parse(await shipped('specs/toybox.yaml')) as Record<string, unknown>;
  const parsed = parseFeedbackRunSpec({ ...spec, model: 'toybox@promoted', prompts: { set } }, 'mine');
  assert.equal(parsed.paused, false);
  const run = withDefaults(parsed.specFor(modelFixture()));
  assert.deepEqual(specViolations(run), []);
  assert.equal(run.name, 'toybox');
  assert.equal(run.iterations, 3);
  const whole = parsePromptSet(Buffer.from(JSON.stringify(set)));
  assert.equal(run.prompts.length, whole.prompts.length);
});

test('the name is that of the object unless given; prompts are the first of each category', () => {
  const prompts = { set, trainPerCategory: 2, heldoutPerCategory: 1 };
  const { specFor } = parseFeedbackRunSpec({ model: 'toybox@promoted', prompts }, 'mine');
  const run = specFor(modelFixture());
  assert.equal(run.name, 'mine');
  assert.equal(run.prompts.filter(({ split }) => split === Split.TRAIN).length, 10);
  assert.equal(run.prompts.filter(({ split }) => split === Split.HELDOUT).length, 5);
  assert.ok(run.prompts.every(({ category }) => category !== Category.UNSPECIFIED));
  // The hash is of the set, however its keys are ordered.
  const { categories, version, prompts: list } = set as Record<string, unknown>;
  const reordered = { prompts: list, version, categories };
  const again = parseFeedbackRunSpec(
    { model: 'toybox@promoted', prompts: { ...prompts, set: reordered } },
    'mine',
  );
  assert.equal(again.specFor(modelFixture()).promptSetHash, run.promptSetHash);
});

test('every bad field is named as the object has it', () => {
  assert.deepEqual(
    refused({ model: 'model.safetensors', prompts: { set }, iterations: 0, surprise: 1 }).toSorted(),
    ['spec', 'spec.iterations', 'spec.model'],
  );
  assert.deepEqual(refused(undefined), ['spec']);
  assert.deepEqual(refused({ model: 'toybox@promoted', prompts: { set, file: 'x' } }), ['spec.prompts']);
  const objective = { model: 'toybox@promoted', prompts: { set }, objective: { algoritm: 'rwr' } };
  assert.throws(() => parseFeedbackRunSpec(objective, 'mine').specFor(modelFixture()), /spec\.objective/);
  const { prompts: list, ...rest } = set as { prompts: object[] };
  const [first] = list;
  const twice = { ...rest, prompts: [...list, first] };
  assert.match(refused({ model: 'toybox@promoted', prompts: { set: twice } }).join(), /spec\.prompts\.set/);
});
