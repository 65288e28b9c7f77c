/** Judges in a whole run of the embedded system: an endpoint that needs a key, spending in the report, held-out judges. */

import assert from 'node:assert/strict';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, test } from 'node:test';
import { z } from 'zod';
import { plumb } from './support/command-line.ts';

const timeout = 900_000;
const root = resolve(import.meta.dirname, '..');
const folder = await mkdtemp(join(tmpdir(), 'plumb-judge-run-'));
after(() => rm(folder, { recursive: true, force: true }));
const state = join(folder, 'state');
const key = 'sk-plumb-test-8d2e61c0fa';

const spec = `
model: ${JSON.stringify(join(root, 'models/toybox/model.safetensors'))}
prompts: { set: ${JSON.stringify(join(root, 'prompts/toybox.json'))}, trainPerCategory: 1, heldoutPerCategory: 1 }
samplesPerPrompt: 2
sampler: { steps: 4 }
optimisation: { steps: 2, batchSize: 4, warmupSteps: 0, checkpointEverySteps: 2 }
evaluation: { samplesPerPrompt: 2 }
seed: 5
`;

/** The judges of the embedded system, at an endpoint that needs a key, with changes to the default one. */
async function judgesFile(name: string, changes: string): Promise<string> {
  const services = join(root, 'services/judge');
  const shipped = await readFile(join(services, 'judges.toybox.yaml'), 'utf8');
  const file = join(folder, name);
  const text = shipped
    .replace('    concurrency: 32\n', '    concurrency: 32\n    apiKeyVariable: JUDGE_TEST_KEY\n')
    .replace("  default: &default\n    version: '1'\n", `  default: &default\n    version: '1'\n${changes}`)
    .replaceAll('rubrics/', `${services}/rubrics/`);
  assert.ok(text.includes('JUDGE_TEST_KEY') && text.includes(changes));
  await writeFile(file, text);
  return file;
}

const environment = (file: string): Record<string, string> => ({
  PLUMB_REFEREE_API_KEY: key,
  JUDGE_TEST_KEY: key,
  PLUMB_JUDGES_FILE: file,
  PLUMB_LOG_LEVEL: 'trace',
});

const lastLine = (stdout: string): unknown => JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '');

/** Every file under a folder. */
async function contents(of: string): Promise<{ name: string; bytes: Buffer }[]> {
  const entries = await readdir(of, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  return Promise.all(
    files.map(async (entry) => {
      const name = join(entry.parentPath, entry.name);
      return { name, bytes: await readFile(name) };
    }),
  );
}

test(
  'a run at an endpoint that needs a key: its report says what each judge took, manifests name the rubric, and the key shows nowhere',
  { timeout },
  async () => {
    const env = environment(await judgesFile('judges.yaml', ''));
    const specFile = join(folder, 'spec.yaml');
    await writeFile(specFile, spec);
    const output: string[] = [];
    const run = async (...args: string[]): Promise<string> => {
      const ended = await plumb([...args, '--state', state], folder, env);
      assert.equal(ended.code, 0, ended.stderr);
      output.push(ended.stdout, ended.stderr);
      return ended.stdout;
    };
    const created = await run('run', 'create', specFile, '--json');
    const { id } = z.object({ id: z.string() }).parse(lastLine(created));
    const text = await run('run', 'report', id, '--output', join(folder, 'report.html'));
    // 5 prompts with 2 samples, and 5 with 2 for each of 2 models: a call each, as nothing fails.
    assert.match(text, /Judging\n[^]*default\s*│\s*30 │/);
    const { report } = z
      .object({ report: z.object({ judging: z.looseObject({ judges: z.array(z.looseObject({})) }) }) })
      .parse(lastLine(await run('run', 'report', id, '--json')));
    const [one] = report.judging.judges;
    assert.deepEqual(
      [report.judging['calls'], one?.['judge'], one?.['calls'], one?.['cost']],
      ['30', 'default', '30', report.judging['cost']],
    );

    await run('export', id, '--format', 'jsonl', '--output', join(folder, 'export'));
    const scores = (await readFile(join(folder, 'export', 'scores.jsonl'), 'utf8')).trim().split('\n');
    const scoreSchema = z.object({ reward: z.string(), rubric_hash: z.string() });
    const hashes = new Set(
      scores
        .map((line) => scoreSchema.parse(JSON.parse(line)))
        .filter(({ reward }) => reward === 'aif')
        .map(({ rubric_hash }) => rubric_hash),
    );
    const [hash, ...others] = hashes;
    assert.match(hash ?? '', /^[0-9a-f]{64}$/);
    assert.deepEqual(others, []);

    const files = await contents(folder);
    const manifests = files.filter(
      ({ name, bytes }) =>
        name.includes('/artifacts/') &&
        (bytes.includes('"kind":"plumb.data-set"') || bytes.includes('"kind":"plumb.evaluation"')),
    );
    assert.ok(manifests.length >= 2, 'data set and evaluation have manifests');
    for (const { name, bytes } of manifests) {
      assert.ok(bytes.includes(`"rubricHash":"${hash}"`), `${name} names the rubric`);
    }
    // Ledger, broker, artifacts, spans, logs, exported rows and the page; and what the commands printed.
    for (const wanted of ['ledger', 'nats', 'artifacts', 'spans', 'export', 'report.html']) {
      assert.ok(
        files.some(({ name }) => name.includes(`/${wanted}`)),
        wanted,
      );
    }
    for (const { name, bytes } of files) {
      assert.ok(!bytes.includes(key) && !bytes.includes(key.slice(8)), `the key is in ${name}`);
    }
    assert.ok(!output.join('\n').includes(key.slice(8)), 'the key is printed');
  },
);

test(
  'a run that would train on a held-out judge is refused before anything is made',
  { timeout },
  async () => {
    const env = environment(await judgesFile('held-out.yaml', '    heldOut: true\n'));
    const specFile = join(folder, 'refused.yaml');
    await writeFile(specFile, spec.replace('seed: 5', 'seed: 6'));
    const place = join(folder, 'refused');
    const refused = await plumb(['run', 'create', specFile, '--state', place], folder, env);
    assert.notEqual(refused.code, 0);
    assert.match(refused.stderr, /spec\.rewards has 'aif', whose judge 'default' is held out/);
    const listed = await plumb(['run', 'list', '--json', '--state', place], folder, env);
    assert.equal(listed.code, 0, listed.stderr);
    assert.ok(!listed.stdout.includes('run-'), 'there is no run');
  },
);
