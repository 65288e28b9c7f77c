import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, test } from 'node:test';
import { promisify } from 'node:util';
import { decodeModel, encodeModel } from '@plumb/diffusion';
import { z } from 'zod';
import { plumb, startPlumb } from './support/command-line.ts';

const folder = await mkdtemp(join(tmpdir(), 'plumb poisoned '));
after(() => rm(folder, { recursive: true, force: true }));
const timeout = 600_000;
const root = resolve(import.meta.dirname, '..');
const weights = join(root, 'models/toybox/model.safetensors');
const run = promisify(execFile);

/** One iteration of 20 training clips, and of 5 held-out clips from each of two models. */
async function writeSpec(name: string, model: string, more = ''): Promise<string> {
  const path = join(folder, `${name}.yaml`);
  await writeFile(
    path,
    `
model: ${JSON.stringify(model)}
prompts: { set: ${JSON.stringify(join(root, 'prompts/toybox.json'))}, trainPerCategory: 2, heldoutPerCategory: 1 }
samplesPerPrompt: 2
sampler: { steps: 8 }
optimisation: { steps: 6, batchSize: 4, warmupSteps: 0, checkpointEverySteps: 6 }
evaluation: { samplesPerPrompt: 1 }
${more}`,
  );
  return path;
}

const runsSchema = z.object({
  runs: z.array(
    z.object({ id: z.string(), state: z.string(), counts: z.record(z.string(), z.string()).optional() }),
  ),
});

test(
  'a model whose clips are not finite: every sample has its typed error, and the run pauses with the cause',
  { timeout },
  async () => {
    const state = join(folder, 'not finite');
    const model = decodeModel(await readFile(weights), weights);
    model.parameters.get('head.out.bias')?.fill(3e38);
    const broken = join(folder, 'broken.safetensors');
    await writeFile(broken, encodeModel(model));
    const spec = await writeSpec('not finite', broken);

    const paused = await plumb(['run', 'create', spec, '--state', state], folder);
    assert.equal(paused.code, 1, paused.stderr);
    assert.match(
      paused.stderr,
      /the run paused: \d+ of 20 samples .* ended in errors \(\d+ of them: model toybox produced values that are not finite/,
    );
    assert.match(paused.stderr, /run resume run-[0-9a-f]{16}/);

    const listed = await plumb(['run', 'list', '--json', '--state', state], folder);
    const [found] = runsSchema.parse(JSON.parse(listed.stdout)).runs;
    assert.ok(found !== undefined);
    assert.equal(found.state, 'RUN_STATE_PAUSED');
    const text = await plumb(['run', 'list', '--state', state], folder);
    assert.match(text.stdout, /paused.*ended in errors/s);

    const again = await plumb(['run', 'create', spec, '--state', state], folder);
    assert.equal(again.code, 1);
    assert.match(again.stderr, /was paused .*; it goes on/);
    assert.match(again.stderr, /the run paused: .* produced values that are not finite/);

    const out = join(folder, 'rows');
    const args = ['export', found.id, '--state', state, '--format', 'jsonl', '--output', out];
    assert.equal((await plumb([...args, '--table', 'samples'], folder)).code, 0);
    const rowSchema = z.object({ state: z.string(), error_reason: z.string().nullable() });
    const rows = (await readFile(join(out, 'samples.jsonl'), 'utf8'))
      .trimEnd()
      .split('\n')
      .map((line) => rowSchema.parse(JSON.parse(line)));
    assert.equal(rows.length, 25);
    for (const { state: is, error_reason: reason } of rows)
      assert.equal(reason, is === 'failed' ? 'NUMERICS_NOT_FINITE' : null);
    assert.ok(rows.filter((row) => row.state === 'failed').length >= 2);
  },
);

test('a spec that contradicts itself is refused with every field and the fix', { timeout }, async () => {
  const spec = await writeSpec(
    'contradicts',
    weights,
    'judge: aif\nheldOutJudge: aif\nobjective: { algorithm: dpo, reward: clip }\nbudgets: { samples: 2 }\n',
  );
  const { code, stderr } = await plumb(
    ['run', 'create', spec, '--state', join(folder, 'not finite')],
    folder,
  );
  assert.equal(code, 1);
  assert.match(stderr, /objective\.reward.*'clip'/);
  assert.match(stderr, /held_out_reward.*verdict/);
  assert.match(stderr, /budgets\.samples.*raise it/);
});

/** Puts a small disk under a folder with what is in it; false where this machine does not let us. */
async function mountSmallDisk(path: string, megabytes: number): Promise<boolean> {
  const kept = `${path} kept`;
  await cp(path, kept, { recursive: true });
  try {
    await run('mount', ['-t', 'tmpfs', '-o', `size=${megabytes}m`, 'tmpfs', path]);
  } catch {
    return false;
  }
  await cp(kept, path, { recursive: true });
  return true;
}

/** Fills what is left of a disk. */
async function fill(path: string): Promise<string> {
  const ballast = join(path, 'ballast');
  await assert.rejects(run('cp', ['/dev/zero', ballast]), /No space left/);
  return ballast;
}

test(
  'a full disk, of artifacts and then of the ledger, pauses the run with its reason and loses nothing',
  { timeout },
  async (t) => {
    const state = join(folder, 'full');
    const spec = await writeSpec('full', weights);
    assert.equal((await plumb(['run', 'list', '--state', state], folder)).code, 0);
    const artifacts = join(state, 'artifacts');
    const ledger = join(state, 'ledger');
    for (const disk of [artifacts, ledger]) {
      if (!(await mountSmallDisk(disk, 200))) {
        t.skip('mounting a small disk needs root and CAP_SYS_ADMIN');
        return;
      }
      t.after(() => run('umount', ['--lazy', disk]));
    }
    const create = ['run', 'create', spec, '--json', '--state', state];
    const firstSaid = /^iteration 1 of 1, sampling/;

    let command = startPlumb(create, folder);
    await command.said(firstSaid);
    let ballast = await fill(artifacts);
    assert.equal(await command.ended, 1, command.stderr());
    assert.match(command.stderr(), /the run paused: .*the disk of the artifact store is full/);
    await rm(ballast);

    command = startPlumb(create, folder);
    await command.said(firstSaid);
    ballast = await fill(ledger);
    assert.equal(await command.ended, 1, command.stderr());
    assert.match(
      command.stderr(),
      /the run paused: the disk of the ledger is full; free some space and resume/,
    );
    await rm(ballast);

    const { code, stdout, stderr } = await plumb(create, folder);
    assert.equal(code, 0, stderr);
    const result = z
      .object({ state: z.string(), counts: z.record(z.string(), z.string()) })
      .parse(JSON.parse(stdout));
    assert.equal(result.state, 'RUN_STATE_SUCCEEDED');
    assert.equal(result.counts['planned'], '30');
    assert.equal(result.counts['scored'], '30');
    assert.equal(result.counts['errors'] ?? '0', '0');
  },
);
