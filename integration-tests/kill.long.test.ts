import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { postgresMissing, startPostgres } from '../services/loop/testing/postgres-server.ts';
import type { PostgresServer } from '../services/loop/testing/postgres-server.ts';
import { plumb, startPlumb } from './support/command-line.ts';
import type { CommandLine } from './support/command-line.ts';
import { smallRunSpec } from './support/small-run.ts';

const folder = await mkdtemp(join(tmpdir(), 'plumb kill '));
after(() => rm(folder, { recursive: true, force: true }));
const timeout = 900_000;

/** Every choice of the disturbed run follows from it. */
const seed = 20_261_122;
/** Kills of the disturbed run. */
const kills = 20;

/** Three iterations of a run of some seconds: the whole path of a real one. */
const spec = smallRunSpec({ samplesPerPrompt: 2, iterations: 3 });
const specPath = join(folder, 'spec.yaml');

const processesSchema = z.object({
  components: z.array(
    z.object({ name: z.string(), state: z.string(), pid: z.number().optional(), restarts: z.number() }),
  ),
});
const resultSchema = z.object({
  id: z.string(),
  state: z.string(),
  counts: z.record(z.string(), z.string()),
});

/** mulberry32: numbers from 0 to 1 that follow from a seed. */
function randomFrom(start: number): () => number {
  let state = start;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const runArgs = (state: string): string[] => ['run', 'create', specPath, '--json', '--state', state];

/** What a run has come to: its counts, and its manifest, which holds the hash of everything that it made. */
async function outcomeOf(
  state: string,
  stdout: string,
  env: Readonly<Record<string, string>> = {},
): Promise<{ counts: unknown; manifest: string }> {
  const { id, counts } = resultSchema.parse(JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? ''));
  const file = join(folder, `${id}.json`);
  const written = await plumb(['run', 'manifest', id, '--state', state, '--output', file], folder, env);
  assert.equal(written.code, 0, written.stderr);
  return { counts, manifest: await readFile(file, 'utf8') };
}

let undisturbed: Awaited<ReturnType<typeof outcomeOf>>;

before(
  async () => {
    await writeFile(specPath, spec);
    const state = join(folder, 'undisturbed');
    const run = await plumb(runArgs(state), folder);
    assert.equal(run.code, 0, run.stderr);
    undisturbed = await outcomeOf(state, run.stdout);
    // Three iterations of 20 training clips, and of 5 held-out clips from each of two models.
    assert.deepEqual(undisturbed.counts, { ...(undisturbed.counts as object), planned: '90', scored: '90' });
  },
  { timeout },
);

/**
 * Kills so many processes in turn, each round in another random order and with random pauses, while the command runs; gives
 * whom it struck. In rounds, because a process that dies again and again right after its start is given up, as it should be.
 */
async function killAtRandom(
  command: CommandLine,
  state: string,
  count: number,
  random: () => number,
  postgres: PostgresServer | undefined,
): Promise<string[]> {
  const struck: string[] = [];
  let turn: string[] = [];
  const ended = new AbortController();
  void command.ended.finally(() => {
    ended.abort();
  });
  while (!ended.signal.aborted && struck.length < count) {
    const components = await componentsOf(state);
    if (turn.length === 0) {
      turn = [...components, ...(postgres === undefined ? [] : [{ name: 'database' }])]
        .map(({ name }) => ({ name, place: random() }))
        .toSorted((a, b) => a.place - b.place)
        .map(({ name }) => name);
    }
    if (turn[0] === 'database' && postgres !== undefined) {
      if (await postgres.killBackend()) struck.push(turn.shift() ?? '');
      await delay(random() * 1500);
      continue;
    }
    const victim = components.find(({ name }) => name === turn[0]);
    if (victim?.pid !== undefined && victim.state === 'ready' && isHit(victim.pid, 'SIGKILL')) {
      struck.push(victim.name);
      turn.shift();
      await delay(random() * 1500);
    } else await delay(20);
  }
  return struck;
}

async function componentsOf(state: string): Promise<z.infer<typeof processesSchema>['components']> {
  const text = await readFile(join(state, 'processes.json'), 'utf8').catch(() => '');
  return text === '' ? [] : processesSchema.parse(JSON.parse(text)).components;
}

/** False when the process is gone already; 0 only asks. */
function isHit(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal);
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'ESRCH');
    return false;
  }
}

async function isGone(pid: number): Promise<void> {
  while (isHit(pid, 0)) await delay(20);
}

test(
  `${kills} SIGKILLs at random over all processes${postgresMissing === undefined ? ' and the connections of the database' : ''}, and one to the command itself in their midst: the ledger ends as that of an undisturbed run`,
  { timeout },
  async (t) => {
    // The undisturbed run has the embedded database: the two of them come to the same, too.
    const postgres = postgresMissing === undefined ? await startPostgres() : undefined;
    t.after(() => postgres?.stop());
    if (postgresMissing !== undefined) t.diagnostic(`the embedded database, as ${postgresMissing}`);
    const env = postgres === undefined ? {} : { PLUMB_DATABASE_URL: postgres.url };
    const state = join(folder, 'disturbed');
    const random = randomFrom(seed);
    const first = startPlumb(runArgs(state), folder, env);
    await first.said(/^train prompts, generate.*: [1-9]\d*\//);
    const struck = await killAtRandom(first, state, kills / 2, random, postgres);

    const left = await componentsOf(state);
    first.signal('SIGKILL');
    await first.ended;
    // Nobody is left behind: the guard ends what the command could not end.
    assert.ok(left.length > 0);
    for (const { pid } of left) if (pid !== undefined) await isGone(pid);

    const second = startPlumb(runArgs(state), folder, env);
    struck.push(...(await killAtRandom(second, state, kills / 2, random, postgres)));
    assert.equal(await second.ended, 0, second.stderr());
    assert.equal(struck.length, kills);
    assert.deepEqual([...new Set(struck)].toSorted(), [
      ...(postgres === undefined ? [] : ['database']),
      'generator',
      'judge',
      'loop',
      'nats-server',
      'referee',
      'reward',
      'trainer',
    ]);
    assert.deepEqual(await outcomeOf(state, second.stdout(), env), undisturbed);
  },
);
