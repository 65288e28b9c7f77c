import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import { readJobSpecFile } from './job-spec-file.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'plumb-job-spec-'));
});
after(() => rm(folder, { recursive: true }));

async function written(text: string): Promise<string> {
  const path = join(folder, 'job.yaml');
  await writeFile(path, text);
  return path;
}

const complete = `
dataSet: data/set.json
base: ../base.safetensors
objective: { algorithm: dpo, reward: aif, temperature: 100, sftAnchor: 3 }
optimisation:
  steps: 20
  batchSize: 4
  learningRate: 1e-4
  timesteps: { kind: window, low: 0.6, high: 1 }
adapters: { rank: 4 }
probe:
  prompts: [{ id: held/1, text: the ball falls, category: CATEGORY_FALLING_DOWN }]
  sampler: { steps: 4, guidance: 1, shift: 1 }
  everySteps: 5
  heldOutReward: motion_floor
seed: "18446744073709551615"
`;

test('a job in YAML becomes the messages of the trainer; paths start at its folder', async () => {
  const spec = await readJobSpecFile(await written(complete));
  assert.equal(spec.dataSet, join(folder, 'data/set.json'));
  assert.equal(spec.base, join(folder, '../base.safetensors'));
  assert.equal(spec.reference, undefined);
  assert.equal(spec.objective.sftAnchor, 3);
  assert.equal(spec.optimisation.timesteps?.low, 0.6);
  assert.equal(spec.optimisation.learningRate, 1e-4);
  assert.equal(spec.adapters?.rank, 4);
  assert.deepEqual(
    [spec.probe?.prompts[0]?.text, spec.probe?.sampler?.steps, spec.probe?.heldOutReward],
    ['the ball falls', 4, 'motion_floor'],
  );
  assert.equal(spec.seed, 2n ** 64n - 1n);
});

test('JSON is read as well, and an artifact stays one', async () => {
  const uri = `artifact:sha256/${'ab'.repeat(32)}`;
  const spec = await readJobSpecFile(
    await written(JSON.stringify({ dataSet: uri, base: '/m', objective: {}, optimisation: {}, seed: 3 })),
  );
  assert.deepEqual([spec.dataSet, spec.base, spec.seed], [uri, '/m', 3n]);
});

async function complaint(text: string): Promise<string> {
  const path = await written(text);
  try {
    await readJobSpecFile(path);
  } catch (error) {
    assert.ok(error instanceof PlumbError && error.code === 'INVALID_ARGUMENT', String(error));
    assert.ok(error.message.includes(path));
    return error.message;
  }
  throw new Error('it was taken');
}

test('what is wrong is named with file and field', async () => {
  assert.match(await complaint('a: [1'), /neither YAML nor JSON/);
  assert.match(await complaint('- 1'), /expected object/i);
  const nothing = await complaint('seed: -1');
  for (const field of [/dataSet/, /base/, /objective/, /seed/]) assert.match(nothing, field);
  assert.match(await complaint(complete.replace('steps', 'stpes')), /optimisation.*stpes.*it takes steps/);
  assert.match(await complaint(complete.replace('steps: 20', 'steps: many')), /optimisation.*steps/);
  assert.match(await complaint(`${complete}lora: 1\n`), /lora/);
});

test('a file that is not there is named', async () => {
  await assert.rejects(readJobSpecFile(join(folder, 'none.yaml')), { code: 'NOT_FOUND' });
});
