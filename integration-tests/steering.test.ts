import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { createClient } from '@plumb/kit/rpc';
import { GeneratorService } from '@plumb/proto/plumb/generator/v1/generator_pb.js';
import { z } from 'zod';
import { plumb, startPlumb } from './support/command-line.ts';
import type { CommandLine } from './support/command-line.ts';

const folder = await mkdtemp(join(tmpdir(), 'plumb steering '));
after(() => rm(folder, { recursive: true, force: true }));
const timeout = 1_200_000;
const root = resolve(import.meta.dirname, '..');
const state = join(folder, 'state');

/** One iteration of 10 training clips, and of 5 held-out clips from each of two models; whatever it makes is promoted. */
async function writeSpec(name: string, seed: number, budgets: string): Promise<string> {
  const path = join(folder, `${name}.yaml`);
  await writeFile(
    path,
    `
model: ${JSON.stringify(join(root, 'models/toybox/model.safetensors'))}
prompts: { set: ${JSON.stringify(join(root, 'prompts/toybox.json'))}, trainPerCategory: 1, heldoutPerCategory: 1 }
samplesPerPrompt: 2
sampler: { steps: 4 }
optimisation: { steps: 2, batchSize: 4, warmupSteps: 0, checkpointEverySteps: 2 }
evaluation: { samplesPerPrompt: 1 }
gate: [{ rule: smallest-gain, gain: -1, lowerBound: -1 }]
budgets: ${budgets}
seed: ${seed}
`,
  );
  return path;
}

const lastLine = (stdout: string): unknown => JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '');
const runSchema = z.object({ id: z.string(), counts: z.record(z.string(), z.string()) });
const stateRowSchema = z.object({
  state: z.string(),
  error: z.object({ message: z.string() }).nullable(),
});

let system: CommandLine;
before(
  async () => {
    system = startPlumb(['up', '--state', state], folder);
    await system.said(/^Ready/);
  },
  { timeout },
);
after(async () => {
  system.signal('SIGINT');
  await system.ended;
});

for (const [name, seed, small, large] of [
  ['judge tokens', 11, '{ judgeTokens: 3000 }', '{ judgeTokens: 1000000 }'],
  ['money', 12, '{ cost: 0.0006 }', '{ cost: 10 }'],
] as const) {
  test(
    `a run pauses when its budget of ${name} is used up, and goes on with a larger one`,
    { timeout },
    async () => {
      const spec = await writeSpec(`small-${seed}`, seed, small);
      const larger = await writeSpec(`large-${seed}`, seed, large);
      const paused = await plumb(['run', 'create', spec, '--state', state, '--json'], folder);
      assert.equal(paused.code, 1, paused.stderr);
      assert.match(paused.stderr, /the run paused: .*budget/);
      const id = /run resume (run-[0-9a-f]{16})/.exec(paused.stderr)?.[1] ?? '';

      const resumed = await plumb(['run', 'resume', id, '--budgets', larger, '--state', state], folder);
      assert.equal(resumed.code, 0, resumed.stderr);
      const ended = await plumb(['run', 'watch', id, '--state', state, '--json'], folder);
      assert.equal(ended.code, 0, ended.stderr);
      const { counts } = runSchema.parse(lastLine(ended.stdout));
      assert.deepEqual([counts['planned'], counts['scored'], counts['errors'] ?? '0'], ['20', '20', '0']);

      // The pause and its reason stay on record.
      const out = join(folder, `rows-${seed}`);
      const args = ['export', id, '--state', state, '--format', 'jsonl', '--output', out];
      assert.equal((await plumb([...args, '--table', 'run_states'], folder)).code, 0);
      const rows = (await readFile(join(out, 'run_states.jsonl'), 'utf8')).trimEnd().split('\n');
      const states = rows.map((row) => stateRowSchema.parse(JSON.parse(row)));
      assert.deepEqual(
        states.map((row) => row.state),
        ['running', 'paused', 'running', 'succeeded'],
      );
      assert.match(states[1]?.error?.message ?? '', /budget/);
    },
  );
}

test(
  'model rollback makes an earlier version the promoted one, and generators follow',
  { timeout },
  async (t) => {
    const listed = await plumb(['models', 'list', '--state', state, '--json'], folder);
    const versions = [...new Set(listed.stdout.match(/toybox@[0-9a-f]{12}/g))];
    assert.ok(versions.length >= 2, listed.stdout);
    const { components } = z
      .object({ components: z.array(z.object({ name: z.string(), address: z.string() })) })
      .parse(JSON.parse(await readFile(join(state, 'processes.json'), 'utf8')));
    const address = components.find(({ name }) => name === 'generator')?.address ?? '';
    const generator = createClient(GeneratorService, address, { defaultDeadlineMs: 60_000 });
    try {
      const promoted = async (): Promise<string> =>
        (await generator.getModel({ version: 'toybox@promoted' })).model?.version ?? '';
      const standing = await promoted();
      const earlier = versions.find((version) => version !== standing) ?? '';

      const startedMs = performance.now();
      const args = ['models', 'rollback', earlier, '--reason', 'it drops the ball', '--state', state];
      const rolled = await plumb(args, folder);
      assert.equal(rolled.code, 0, rolled.stderr);
      assert.equal(rolled.stdout.trim(), `${earlier} is promoted now.`);
      const calledMs = performance.now();
      while ((await promoted()) !== earlier);
      t.diagnostic(
        `the command took ${Math.round(calledMs - startedMs)} ms, the generator followed ${Math.round(performance.now() - calledMs)} ms after it`,
      );

      const unknown = await plumb(
        ['models', 'rollback', 'toybox@000000000000', '--reason', 'no such', '--state', state],
        folder,
      );
      assert.equal(unknown.code, 1);
      assert.match(unknown.stderr, /toybox@000000000000/);
      assert.equal(await promoted(), earlier);
    } finally {
      generator.close();
    }
  },
);
