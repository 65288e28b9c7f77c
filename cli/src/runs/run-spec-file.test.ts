import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { PlumbError } from '@plumb/kit/errors';
import { demoSpec } from '../demo-spec.ts';
import { prepareRun } from './make-run.ts';
import { parseRunSpec, readRunSpecFile } from './run-spec-file.ts';

const shipped = (name: string): string =>
  fileURLToPath(new URL(`../../../specs/${name}.yaml`, import.meta.url));
const least = 'model: m.safetensors\nprompts: { set: p.json }\n';

/** What is said of a bad spec. */
function complaint(text: string): string {
  try {
    parseRunSpec(text, 'mine.yaml');
  } catch (error) {
    assert.ok(error instanceof PlumbError, String(error));
    assert.equal(error.code, 'INVALID_ARGUMENT');
    return error.message;
  }
  return assert.fail('it was accepted');
}

test('the shipped specs are read, with the files that they name', async () => {
  const paper = await prepareRun(await readRunSpecFile(shipped('paper-scale')));
  assert.equal(paper.file.spec.samplesPerPrompt, 128);
  assert.equal(paper.prompts.prompts.length, 160);
  assert.equal(paper.file.spec.budgets?.seconds, 14 * 86_400);
  const toybox = await prepareRun(await readRunSpecFile(shipped('toybox')));
  assert.equal(toybox.file.spec.iterations, 3);
  for (const { file } of [paper, toybox]) {
    const { rewards = [], evaluation, gate } = file.spec;
    const heldOut = evaluation?.heldOutReward ?? '';
    assert.notEqual(heldOut, '');
    assert.ok(!rewards.includes(heldOut));
    const rules = gate?.rules?.map(({ rule }) => rule) ?? [];
    assert.ok(rules.includes('not-lower') && rules.includes('no-over-optimisation'), String(rules));
  }
});

test('what is left out has the defaults of the toybox, and paths start at the folder of the spec', async () => {
  const { spec: toybox } = await readRunSpecFile(shipped('toybox'));
  const bare = parseRunSpec(least, '/specs/mine.yaml');
  assert.deepEqual(bare.model, { path: '/specs/m.safetensors' });
  assert.equal(bare.prompts.path, '/specs/p.json');
  const { gate, probe, evaluation, ...rest } = toybox;
  const { evaluation: bareEvaluation, ...bareRest } = bare.spec;
  assert.deepEqual({ ...bareRest, name: 'toybox', iterations: 3 }, rest);
  assert.deepEqual({ ...bareEvaluation, heldOutReward: 'clip_score' }, evaluation);
  // Nothing but the shipped spec asks for them: the loop has a default gate, and no probe is made unless one is named.
  assert.ok(gate !== undefined && probe !== undefined);
  assert.deepEqual(parseRunSpec(least.replace('m.safetensors', 'toybox@promoted'), 'x.yaml').model, {
    version: 'toybox@promoted',
  });
});

test('the demo is one iteration of the shipped spec, with what the person changed', async () => {
  const { spec } = await readRunSpecFile(shipped('toybox'));
  const demo = await demoSpec({ samplesPerPrompt: 3, steps: 6 });
  assert.equal(demo.spec.iterations, 1);
  assert.equal(demo.spec.samplesPerPrompt, 3);
  assert.equal(demo.spec.optimisation?.steps, 6);
  assert.equal(demo.spec.optimisation?.warmupSteps, 0);
  assert.deepEqual(demo.spec.gate, spec.gate);
});

test('every bad field is named, with its fix', () => {
  assert.match(complaint('prompts: { set: p.json }'), /mine\.yaml: model: must be a name/);
  assert.match(complaint(`${least}samplesPerPrompt: 0`), /samplesPerPrompt: must be at least 1/);
  assert.match(complaint(`${least}samplePerPrompt: 3`), /samplePerPrompt/);
  assert.match(complaint(`${least}budgets: { wallTime: 3 }`), /budgets\.wallTime/);
  assert.match(complaint(`${least}budgets: { wallTime: 3 weeks }`), /must be a time such as/);
  assert.match(complaint(`${least}gate: []`), /gate: has no rules/);
  assert.match(complaint(`${least}gate: [{ rule: best }]`), /gate\[0\]\.rule/);
  assert.match(complaint(`${least}objective: { algoritm: sft }`), /objective.*it takes algorithm/);
  assert.match(complaint(`${least}reference: next`), /reference: must be previous or pretrained/);
  assert.match(complaint(`${least}seed: -1`), /seed: /);
  assert.match(complaint('a: [1'), /is neither YAML nor JSON/);
  assert.match(complaint(''), /mine\.yaml/);
});
