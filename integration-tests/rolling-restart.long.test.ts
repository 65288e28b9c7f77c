import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { inspect } from 'node:util';
import { connect, connectReward } from '@plumb/client';
import { LoopService } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { z } from 'zod';
import { plumb, startPlumb } from './support/command-line.ts';
import { judgedSamples } from './support/judged-samples.ts';
import { smallRunSpec } from './support/small-run.ts';

const folder = await mkdtemp(join(tmpdir(), 'plumb rolling '));
after(() => rm(folder, { recursive: true, force: true }));
const timeout = 600_000;
const services = ['generator', 'reward', 'judge', 'trainer', 'loop'] as const;

/** Long enough for every service to be restarted in its midst. */
const spec = smallRunSpec({ samplesPerPrompt: 3, iterations: 3 });
const specPath = join(folder, 'spec.yaml');

const componentsSchema = z.object({
  components: z.array(
    z.object({ name: z.string(), state: z.string(), pid: z.number().optional(), address: z.string() }),
  ),
});
type Component = z.infer<typeof componentsSchema>['components'][number];
type Ready = Component & { readonly pid: number };

async function componentsOf(state: string): Promise<Component[]> {
  const text = await readFile(join(state, 'processes.json'), 'utf8').catch(() => '');
  return text === '' ? [] : componentsSchema.parse(JSON.parse(text)).components;
}

/** Waits until a component is ready; in another process than `unlike`, if that is given. */
async function ready(state: string, name: string, unlike?: number): Promise<Ready> {
  for (;;) {
    const found = (await componentsOf(state)).find((component) => component.name === name);
    if (found?.pid !== undefined && found.state === 'ready' && found.pid !== unlike)
      return { ...found, pid: found.pid };
    await delay(20);
  }
}

const runArgs = (state: string): string[] => ['run', 'create', specPath, '--json', '--state', state];

/** Counts of a finished run, and its manifest, which holds the hash of everything that it made. */
async function outcomeOf(
  state: string,
  stdout: string,
): Promise<{ id: string; counts: unknown; manifest: string }> {
  const last = z
    .object({ id: z.string(), counts: z.record(z.string(), z.string()) })
    .parse(JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? ''));
  const file = join(folder, 'manifest.json');
  const written = await plumb(['run', 'manifest', last.id, '--state', state, '--output', file], folder);
  assert.equal(written.code, 0, written.stderr);
  return { ...last, manifest: await readFile(file, 'utf8') };
}

test(
  'a rolling restart of every service by SIGTERM: the ledger of an undisturbed run, and no client call fails',
  { timeout },
  async (t) => {
    await writeFile(specPath, spec);
    const calm = await plumb(runArgs(join(folder, 'calm')), folder);
    assert.equal(calm.code, 0, calm.stderr);
    const undisturbed = await outcomeOf(join(folder, 'calm'), calm.stdout);

    const state = join(folder, 'rolling');
    const command = startPlumb(runArgs(state), folder);
    t.after(async () => {
      command.signal('SIGINT');
      await command.ended;
    });
    await command.said(/^train prompts, generate.*: [1-9]\d*\//);
    const [reward, loop] = [await ready(state, 'reward'), await ready(state, 'loop')];
    const [sample] = await judgedSamples(1);
    assert.ok(sample !== undefined);
    const scoring = await connectReward({ address: reward.address, waitForReady: true });
    const reading = await connect(LoopService, {
      address: loop.address,
      waitForReady: true,
      deadlineMs: 120_000,
    });
    const rolled = new AbortController();
    const calls = { score: 0, list: 0 };
    /** Never two answers from the cache: each prompt is another. */
    const score = async (): Promise<void> => {
      while (!rolled.signal.aborted) {
        const item = {
          id: 'one',
          prompt: { text: `${sample.prompt.text} ${calls.score}` },
          video: sample.video,
        };
        const [scored] = await scoring.score(
          { rewards: ['motion_floor', 'colour_stability'], items: [item] },
          { deadlineMs: 120_000 },
        );
        assert.deepEqual(
          scored?.outcomes.map(({ outcome }) => outcome.case),
          ['score', 'score'],
          inspect(scored?.outcomes),
        );
        calls.score += 1;
      }
    };
    const list = async (): Promise<void> => {
      while (!rolled.signal.aborted) {
        const { runs } = await reading.client.listRuns({});
        assert.equal(runs.length, 1);
        calls.list += 1;
        await delay(50);
      }
    };
    const roll = async (): Promise<void> => {
      try {
        for (const name of services) {
          const { pid } = await ready(state, name);
          process.kill(pid, 'SIGTERM');
          await ready(state, name, pid);
        }
      } finally {
        rolled.abort();
      }
    };
    try {
      await Promise.all([roll(), score(), list()]);
    } finally {
      scoring.close();
      reading.close();
    }
    // The restarts were in the midst of the run, and calls went on all the time.
    assert.ok((await componentsOf(state)).length > 0, 'the run ended before every service was restarted');
    assert.ok(calls.score >= services.length && calls.list >= services.length);
    t.diagnostic(`${calls.score} calls of Score and ${calls.list} of ListRuns, none failed`);
    assert.equal(await command.ended, 0, command.stderr());
    assert.deepEqual(await outcomeOf(state, command.stdout()), undisturbed);
  },
);
