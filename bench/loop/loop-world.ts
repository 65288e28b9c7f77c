import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { create } from '@bufbuild/protobuf';
import { createClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import { openFolderStore } from '@plumb/media';
import { LoopService, RunSpecSchema, RunState } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Run, RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { Category, Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { processorSecondsOf } from '../processor-time.ts';

const root = resolve(import.meta.dirname, '../..');

/** What the stub work takes, in milliseconds. */
export interface StubTimes {
  /** One clip; clips are made one after the other. */
  readonly clip: number;
  /** One verdict; verdicts wait beside each other. */
  readonly score: number;
  /** One training job. */
  readonly train: number;
}

/** Processor seconds of each process so far. */
export interface ProcessorSeconds {
  readonly loop: number;
  readonly nats: number;
  readonly workers: number;
}

/** A broker, a loop service on an embedded database, and stub workers, each a process of its own. */
export interface LoopWorld {
  /** Does a run to its end; gives it. */
  run(spec: RunSpec): Promise<Run>;
  readonly base: NonNullable<RunSpec['base']>;
  processorSeconds(): Promise<ProcessorSeconds>;
  /** Largest resident memory of the loop process so far, less what the embedded database takes; MiB. */
  reconcilerMemory(): Promise<number>;
  stop(): Promise<void>;
}

export async function startLoopWorld(folder: string, times: StubTimes): Promise<LoopWorld> {
  const nats = await startNatsServer();
  const artifacts = join(folder, 'artifacts');
  const store = await openFolderStore(artifacts);
  const stored = await store.put(Buffer.from('weights'), { mediaType: 'application/octet-stream' });
  const base = create(RunSpecSchema, {
    base: {
      version: `stub@${stored.sha256.slice(0, 12)}`,
      model: 'stub',
      weights: { uri: stored.uri, sha256: stored.sha256 },
    },
  }).base;
  if (base === undefined) throw new TypeError('the message lost its base');
  const workers = await start(
    'bench/loop/stub-workers.ts',
    [nats.url, artifacts, String(times.clip), String(times.score), String(times.train)],
    {},
  );
  const loop = await start('services/loop/main.ts', [], {
    PLUMB_NATS_URL: nats.url,
    PLUMB_ARTIFACTS: artifacts,
    PLUMB_DATABASE_URL: `pglite:${join(folder, 'ledger')}`,
    PLUMB_TRAINER_ADDRESS: workers.address,
    PLUMB_LISTEN: '127.0.0.1:0',
    PLUMB_METRICS_LISTEN: '127.0.0.1:0',
    PLUMB_LOG_LEVEL: 'warn',
    PLUMB_PARENT_PIPE: '1',
  });
  const client = createClient(LoopService, loop.address, { defaultDeadlineMs: 120_000 });
  let runs = 0;
  return {
    base,
    async run(spec) {
      runs += 1;
      const { run: created } = await client.createRun({ spec, idempotencyKey: `bench ${runs}` });
      const id = created?.id ?? '';
      for (;;) {
        for await (const { run } of client.watchRun({ id }, { deadlineMs: 3_600_000 })) {
          if (run === undefined || run.state === RunState.RUNNING) continue;
          if (run.state === RunState.SUCCEEDED) return run;
          throw new Error(`the run ended as ${RunState[run.state]}: ${run.error?.message ?? ''}`);
        }
      }
    },
    processorSeconds: async () => ({
      loop: await processorSecondsOf(loop.pid),
      nats: await processorSecondsOf(nats.pid),
      workers: await processorSecondsOf(workers.pid),
    }),
    reconcilerMemory: async () => (await peakMemory(loop.pid)) - (await embeddedDatabaseMemory(folder)),
    async stop() {
      client.close();
      await loop.stop();
      await workers.stop();
      await nats.stop();
    },
  };
}

/** A spec of so many samples, of which one in fifty is held out (for both models). */
export function syntheticSpec(
  base: NonNullable<RunSpec['base']>,
  samples: number,
  options: { readonly seed: bigint; readonly sequential?: boolean; readonly heldoutShare?: number },
): RunSpec {
  const perPrompt = 20;
  const heldout = Math.max(1, Math.round((samples * (options.heldoutShare ?? 0.02)) / perPrompt / 2));
  const train = Math.max(1, Math.round(samples / perPrompt) - 2 * heldout);
  const categories = [
    Category.OBJECT_REMOVAL,
    Category.MULTIPLE_OBJECTS,
    Category.DEFORMABLE_OBJECT,
    Category.DIRECTIONAL_MOVEMENT,
    Category.FALLING_DOWN,
  ];
  const used = heldout < categories.length ? categories.slice(0, heldout) : categories;
  const prompt = (split: Split) => (_: unknown, index: number) => ({
    id: `${Split[split]}/${index}`,
    text: `${Split[split]} prompt number ${index}`,
    category: used[index % used.length] ?? Category.FALLING_DOWN,
    split,
  });
  return create(RunSpecSchema, {
    name: 'synthetic',
    base,
    prompts: [
      ...Array.from({ length: train }, prompt(Split.TRAIN)),
      ...Array.from({ length: heldout }, prompt(Split.HELDOUT)),
    ],
    promptSetHash: '0'.repeat(64),
    samplesPerPrompt: perPrompt,
    sampler: { steps: 20, guidance: 1.5, shift: 3.5 },
    rewards: ['aif'],
    objective: { algorithm: 'rwr', reward: 'aif' },
    optimisation: { steps: 1, batchSize: 1, learningRate: 1e-4 },
    iterations: 1,
    evaluation: { samplesPerPrompt: perPrompt, reward: 'aif' },
    sequential: options.sequential ?? false,
    noReuse: true,
    seed: options.seed,
  });
}

interface Started {
  readonly address: string;
  readonly pid: number;
  stop(): Promise<void>;
}

async function start(
  path: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<Started> {
  const child: ChildProcess = spawn(process.execPath, [join(root, path), ...args], {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const exited = once(child, 'exit');
  if (child.stdout === null) throw new TypeError('a child without standard output');
  const [line] = (await Promise.race([
    once(createInterface({ input: child.stdout }), 'line'),
    exited.then(([code]) => {
      throw new Error(`${path} ended with ${String(code)} before it was ready`);
    }),
  ])) as [string];
  const { address } = JSON.parse(line) as { address: string };
  return {
    address,
    pid: child.pid ?? 0,
    async stop() {
      child.stdin?.end();
      await exited;
    },
  };
}

/** Largest resident memory so far, MiB. */
async function peakMemory(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024;
}

/** What the embedded database alone takes, MiB: the peak of a process that makes an empty one, less that of one without. */
async function embeddedDatabaseMemory(folder: string): Promise<number> {
  const script = `
    const { PGlite } = await import('@electric-sql/pglite');
    const before = process.resourceUsage().maxRSS;
    const database = await PGlite.create(process.argv[1]);
    await database.query('select 1');
    process.stdout.write(String((process.resourceUsage().maxRSS - before) / 1024));
    process.exit(0);`;
  const args = ['--input-type=module', '-e', script, join(folder, `empty-${Date.now()}`)];
  const child = spawn(process.execPath, args, {
    cwd: join(root, 'services/loop'),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  const memory = Number(text);
  if (code !== 0 || !(memory > 0))
    throw new Error(`the memory of the embedded database could not be measured (${code})`);
  return memory;
}
