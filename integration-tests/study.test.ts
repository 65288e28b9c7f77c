import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { encodeModel } from '@plumb/diffusion';
import { smallConfig, smallModel } from '@plumb/diffusion/testing-model';
import { longestCaption, vocabulary } from '@plumb/toybox';
import { plumb, startPlumb } from './support/command-line.ts';

const timeout = 240_000;
const repository = resolve(import.meta.dirname, '..');

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'plumb study '));
  const model = smallModel('study', {
    ...smallConfig,
    video: { frames: 4, height: 16, width: 16, fps: 4 },
    caption: { vocabulary: [...vocabulary], maxWords: longestCaption, wordWidth: 8 },
  });
  await writeFile(join(folder, 'model.safetensors'), encodeModel(model));
  await writeFile(
    join(folder, 'tiny.yaml'),
    `
name: tiny
model: model.safetensors
prompts: { set: ${JSON.stringify(join(repository, 'prompts/toybox.json'))}, trainPerCategory: 2, heldoutPerCategory: 2 }
rewards: ${JSON.stringify(join(repository, 'rewards'))}
samplesPerPrompt: 2
sampler: { steps: 2, guidance: 1, shift: 1 }
optimisation: { steps: 30, batchSize: 2, warmupSteps: 1 }
evaluation: { samplesPerPrompt: 1 }
matrix:
  - { algorithms: [sft] }
  - { algorithms: [rwr, dpo], rewards: [optical_flow] }
`,
  );
});
after(() => rm(folder, { recursive: true, force: true }));

const run = (studies: string) => ['study', 'run', 'tiny.yaml', '--studies', studies, '--threads', '1'];
const file = (studies: string, name: string) => readFile(join(folder, studies, 'tiny', name), 'utf8');

test('a study that is killed ends as one that was not, with a report', { timeout }, async () => {
  const undisturbed = await plumb([...run('whole'), '--json'], folder);
  assert.equal(undisturbed.code, 0, undisturbed.stderr);
  const printed = JSON.parse(undisturbed.stdout) as { cells: { arm: string }[]; report: string };
  assert.deepEqual(
    printed.cells.map(({ arm }) => arm),
    ['sft', 'rwr optical_flow', 'dpo optical_flow'],
  );

  const killed = startPlumb(run('killed'), folder);
  await killed.said(/rwr optical_flow: training/);
  killed.signal('SIGKILL');
  assert.equal(await killed.ended, null);
  const unfinished = await plumb(['study', 'show', 'tiny', '--studies', 'killed'], folder);
  assert.equal(unfinished.code, 1);
  assert.match(unfinished.stderr, /has not run to its end/);

  const resumed = await plumb(run('killed'), folder);
  assert.equal(resumed.code, 0, resumed.stderr);
  assert.doesNotMatch(resumed.stderr, /sft: training/, 'what is on record is not made again');
  assert.equal(await file('killed', 'manifest.json'), await file('whole', 'manifest.json'));
  const cells = async (studies: string): Promise<string[]> =>
    (await readdir(join(folder, studies, 'tiny/cells'))).toSorted();
  assert.deepEqual(await cells('killed'), await cells('whole'));

  const page = await file('killed', 'report.html');
  assert.match(page, /rwr optical_flow/);
  assert.doesNotMatch(page, /<script|<link|src="http|url\(/);
  assert.match(await file('killed', 'cells.csv'), /^arm,algorithm,reward,/);
  const listed = await plumb(['study', 'list', '--studies', 'killed'], folder);
  assert.match(listed.stdout, /^tiny {2}3 cells\. /);
  const shown = await plumb(['study', 'show', 'tiny', '--studies', 'killed'], folder);
  assert.match(shown.stdout, /dpo optical_flow/);
});

test('a spec with mistakes names each of them, and nothing is made', { timeout }, async () => {
  await writeFile(
    join(folder, 'wrong.yaml'),
    'name: Wrong\nmodel: m\nprompts: { set: p }\nrewards: r\nmatrix: [{ algorithms: [ppo] }]\n',
  );
  const { code, stderr } = await plumb(['study', 'run', 'wrong.yaml', '--studies', 'none'], folder);
  assert.equal(code, 1);
  assert.match(
    stderr,
    /name: must be of lower-case letters.*matrix\[0\]\.algorithms\[0\]: must be one of sft/,
  );
  await assert.rejects(readdir(join(folder, 'none')));
});
