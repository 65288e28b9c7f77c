import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { decodeAdapters, decodeModel, encodeModel, mergeAdapters, modelHash } from '@plumb/diffusion';
import { openFolderStore } from '@plumb/media';
import { openInThread } from '@plumb/tensor-graph/engine';
import { plumb, startPlumb } from './support/command-line.ts';
import { smallModel, storeDataSet, storeModel } from './support/small-world.ts';

const timeout = 240_000;
const base = smallModel('train command');

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'plumb train '));
  const store = await openFolderStore(join(folder, 'clips'));
  const { manifest } = await storeDataSet(store, await storeModel(store, base), { samplesPerPrompt: 6 });
  const samples = manifest.samples.map((sample) => ({
    ...sample,
    // Clips beside the manifest, as a person brings them.
    video: {
      ...sample.video,
      uri: `clips/sha256/${sample.video.sha256.slice(0, 2)}/${sample.video.sha256}`,
    },
  }));
  await writeFile(join(folder, 'data-set.json'), JSON.stringify({ ...manifest, samples }));
  await writeFile(join(folder, 'base.safetensors'), encodeModel(base));
  await writeFile(join(folder, 'job.yaml'), job({}));
});
after(() => rm(folder, { recursive: true, force: true }));

function job({ steps = 12, rank = 2 }: { steps?: number; rank?: number }): string {
  return `
dataSet: data-set.json
base: base.safetensors
objective: { algorithm: rwr, reward: aif }
optimisation: { steps: ${steps}, batchSize: 4, learningRate: 1e-2, checkpointEverySteps: 5 }
adapters: { rank: ${rank} }
seed: 7
`;
}

async function json(args: readonly string[]): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await plumb(args, folder);
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout.trimEnd()) as Record<string, unknown>;
}

test('a job spec becomes a model, in a file and in the registry', { timeout }, async () => {
  const args = ['train', 'job.yaml', '--json', '--output=new.safetensors'];
  const result = await json([...args, '--adapters-output=adapters.safetensors']);
  assert.equal(result['steps'], 12);
  const trained = decodeModel(await readFile(join(folder, 'new.safetensors')), 'new');
  const adapters = decodeAdapters(await readFile(join(folder, 'adapters.safetensors')), 'adapters');
  assert.equal(modelHash(mergeAdapters(base, adapters)), result['sha256']);
  assert.equal(modelHash(trained), result['sha256']);

  // The same command finds the finished job.
  const again = await plumb(args, folder);
  assert.equal(again.code, 0, again.stderr);
  assert.match(again.stderr, /is already complete/);
  assert.deepEqual((JSON.parse(again.stdout) as Record<string, unknown>)['sha256'], result['sha256']);

  const version = String(result['version']);
  const parent = `small@${modelHash(base).slice(0, 12)}`;
  const { models } = (await json(['models', 'list', '--json'])) as { models: { version: string }[] };
  assert.deepEqual(models.map((model) => model.version).toSorted(), [parent, version].toSorted());
  const shown = await json(['models', 'show', version, '--json']);
  assert.deepEqual(shown['parents'], [parent]);
  assert.equal(shown['sha256'], result['sha256']);
  const { layers } = (await json(['models', 'diff', 'base.safetensors', version, '--json'])) as {
    layers: { name: string; relativeChange: number }[];
  };
  for (const { name, relativeChange } of layers) {
    const adapted = /(attention\.(qkv|out)|mlp\.\d)\.weight$/.test(name);
    assert.equal(relativeChange > 0, adapted, `${name} changed by ${relativeChange}`);
  }
  const { files } = (await json(['models', 'export', version, '--output=out', '--batch=2', '--json'])) as {
    files: string[];
  };
  assert.deepEqual(
    (await readdir(join(folder, 'out'))).toSorted(),
    files.map((file) => file.slice(join(folder, 'out/').length)).toSorted(),
  );
  const engine = openInThread({ intraOpThreads: 1 });
  await engine.load('exported', await readFile(files.find((file) => file.endsWith('.onnx')) ?? ''));
  await engine.close();
});

test('Ctrl-C stops after a checkpoint, and the same command goes on', { timeout }, async () => {
  await writeFile(join(folder, 'long.yaml'), job({ steps: 400 }));
  const args = ['train', 'long.yaml', '--json', '--output=long.safetensors'];
  const first = startPlumb(args, folder);
  await first.said(/training steps: \d+\/400/);
  first.signal('SIGINT');
  assert.equal(await first.ended, 130);
  assert.equal(first.stdout(), '');
  assert.match(first.stderr(), /goes on from the last checkpoint/);
  const result = await json(args);
  assert.equal(result['steps'], 400);
});

test(
  'a job that cannot be trained is refused with the field, and nothing is written',
  { timeout },
  async () => {
    await writeFile(join(folder, 'bad.yaml'), job({ rank: 0 }));
    const { code, stdout, stderr } = await plumb(['train', 'bad.yaml', '--output=bad.safetensors'], folder);
    assert.equal(code, 1);
    assert.equal(stdout, '');
    assert.match(stderr, /spec\.adapters\.rank/);
    assert.ok(!(await readdir(folder)).includes('bad.safetensors'));
  },
);

test('a model that is not there is named', { timeout }, async () => {
  const { code, stderr } = await plumb(['models', 'show', 'small@000000000000'], folder);
  assert.equal(code, 1);
  assert.match(stderr, /small@000000000000/);
});
