import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { plumb, startPlumb } from './support/command-line.ts';
import { writeTinyStudy } from './support/tiny-study.ts';

const timeout = 240_000;

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'plumb study '));
  await writeTinyStudy(folder);
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
