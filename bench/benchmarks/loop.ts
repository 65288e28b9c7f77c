/**
 * What the loop costs: processor time a sample through the queues, its growth and the memory of the reconciler, with stub
 * work; how much shorter an iteration is when its stages overlap; and how much of an embedded run's time is no model's.
 *
 *     npm run bench -- loop [--json] [--tasks=100000] [--only=queues|pipeline|embedded]
 *
 * A sample is two tasks: one to generate, one to score. Processor time a sample is over all services: loop with its embedded
 * database and broker from the queues with stub work; generator, reward, judge and trainer from the embedded run, without the
 * engines, which are processes of their own, and without the referee, which stands where a model would.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { timestampMs } from '@bufbuild/protobuf/wkt';
import type { Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { startLoopWorld, syntheticSpec } from '../loop/loop-world.ts';
import type { StubTimes } from '../loop/loop-world.ts';
import { invalidArgument } from '@plumb/kit/errors';
import { printBench } from '../print-bench.ts';
import { watchProcessorTime } from '../processor-time.ts';

const { values } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    tasks: { type: 'string', default: '100000' },
    only: { type: 'string' },
  },
});
const tasks = Number(values.tasks);
if (!Number.isInteger(tasks) || tasks < 2_000 || tasks % 20 !== 0)
  throw invalidArgument('--tasks', `'${values.tasks}' is no multiple of 20 from 2000 on`);
const root = resolve(import.meta.dirname, '../..');
const folder = await mkdtemp(join(tmpdir(), 'plumb-bench-loop-'));
const say = (line: string): void => {
  process.stderr.write(`${line}\n`);
};
const ratios: Record<string, number> = {};
const figures: Record<string, number> = {};

/** Processor milliseconds a sample, and memory, of a run with so many tasks on a ledger of its own. */
async function throughQueues(count: number) {
  const world = await startLoopWorld(join(folder, `queues-${count}`), { clip: 0, score: 0, train: 0 });
  try {
    const before = await world.processorSeconds();
    const startedAt = performance.now();
    const { counts } = await world.run(syntheticSpec(world.base, count / 2, { seed: 1n }));
    const seconds = (performance.now() - startedAt) / 1000;
    const after = await world.processorSeconds();
    const samples = Number(counts?.scored ?? 0n);
    const ms = (name: keyof typeof before): number => ((after[name] - before[name]) * 1000) / samples;
    const cost = { loop: ms('loop'), nats: ms('nats'), workers: ms('workers') };
    const memory = await world.reconcilerMemory();
    say(
      `${samples} samples in ${seconds.toFixed(0)} s: ${cost.loop.toFixed(2)} ms loop, ${cost.nats.toFixed(2)} ms broker, ` +
        `${cost.workers.toFixed(2)} ms workers a sample; reconciler ${memory.toFixed(0)} MiB`,
    );
    return { ...cost, memory };
  } finally {
    await world.stop();
  }
}

/** 100000 as "100k" */
const shortNumber = (count: number): string => (count % 1000 === 0 ? `${count / 1000}k` : String(count));

async function queues(): Promise<void> {
  const small = await throughQueues(tasks / 10);
  const large = await throughQueues(tasks);
  figures['loop_cpu_ms_per_sample'] = large.loop;
  figures['broker_cpu_ms_per_sample'] = large.nats;
  figures['reconciler_rss_mb'] = large.memory;
  figures['tasks'] = tasks;
  // 100k_vs_10k at the default size; a smaller run must not pass for it.
  ratios[`cost_per_task_${shortNumber(tasks)}_vs_${shortNumber(tasks / 10)}`] = large.loop / small.loop;
}

/**
 * Overlapping against in sequence, in turn, on stub work that takes the time of one accelerator and of a remote judge: 20 ms
 * a clip, 400 ms a verdict (64 at a time), and training as long as sampling the held-out prompts with one model.
 */
async function pipeline(): Promise<void> {
  const times: StubTimes = { clip: 20, score: 400, train: 4_000 };
  const samples = 800;
  const world = await startLoopWorld(join(folder, 'pipeline'), times);
  try {
    const seconds: Record<'overlapping' | 'sequential', number[]> = { overlapping: [], sequential: [] };
    const rates: Record<'overlapping' | 'sequential', number[]> = { overlapping: [], sequential: [] };
    for (let round = 0; round < 3; round += 1) {
      for (const kind of ['overlapping', 'sequential'] as const) {
        const spec = syntheticSpec(world.base, samples, {
          seed: BigInt(round + 1),
          sequential: kind === 'sequential',
          heldoutShare: 0.5,
        });
        const startedAt = performance.now();
        const run = await world.run(spec);
        rates[kind].push(clipsPerSecond(run));
        seconds[kind].push((performance.now() - startedAt) / 1000);
      }
      say(
        `overlapping ${seconds.overlapping.at(-1)?.toFixed(1)} s, in sequence ${seconds.sequential.at(-1)?.toFixed(1)} s`,
      );
    }
    const median = (list: readonly number[]): number =>
      list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)] ?? 0;
    ratios['pipelined_vs_sequential'] = median(seconds.overlapping) / median(seconds.sequential);
    ratios['clips_per_second_pipelined_vs_sequential'] = median(rates.overlapping) / median(rates.sequential);
    figures['pipelined_seconds'] = median(seconds.overlapping);
    figures['sequential_seconds'] = median(seconds.sequential);
  } finally {
    await world.stop();
  }
}

/** Clips a second while the training prompts are sampled: what overlapping must not slow. */
function clipsPerSecond({ progress }: Run): number {
  const stage = progress.find(({ label }) => label === 'train prompts, generate');
  if (stage?.startTime === undefined || stage.endTime === undefined)
    throw new Error('the run tells no times of its sampling stage');
  return (Number(stage.total) * 1000) / (timestampMs(stage.endTime) - timestampMs(stage.startTime));
}

/** Spans in which an engine computes. */
const compute = new Set(['engine run', 'engine iterate', 'engine trainStep', 'engine measureTraining']);

/** A run of the embedded system of some minutes: the share of its working time in which no engine computes. */
async function embedded(): Promise<void> {
  const state = join(folder, 'state');
  const args = ['demo', '--json', '--state', state, '--report', join(folder, 'report.html')];
  const size = ['--samples-per-prompt=2', '--heldout-samples=2', '--steps=60'];
  const demo = spawn(process.execPath, [join(root, 'cli/src/main.ts'), ...args, ...size], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let stdout = '';
  demo.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  const ended = once(demo, 'close') as Promise<[number | null]>;
  const processor = await watchProcessorTime(join(state, 'processes.json'), ended);
  const [status] = await ended;
  if (status !== 0) throw new Error(`the demo ended with ${status}`);
  const { seconds, samples } = JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '') as {
    seconds: number;
    samples: number;
  };
  for (const name of ['generator', 'reward', 'judge', 'trainer']) {
    figures[`${name}_cpu_ms_per_sample`] = ((processor.get(name) ?? Number.NaN) * 1000) / samples;
  }
  const intervals: [number, number][] = [];
  for (const file of await readdir(join(state, 'spans'))) {
    for (const line of (await readFile(join(state, 'spans', file), 'utf8')).split('\n')) {
      if (line === '') continue;
      const { name, startMs, endMs } = JSON.parse(line) as { name: string; startMs: number; endMs: number };
      if (compute.has(name)) intervals.push([startMs, endMs]);
    }
  }
  let covered = 0;
  let until = -Infinity;
  for (const [start, end] of intervals.toSorted(([a], [b]) => a - b)) {
    covered += Math.max(0, end - Math.max(start, until));
    until = Math.max(until, end);
  }
  ratios['non_compute_share'] = 1 - covered / 1000 / seconds;
  figures['embedded_seconds'] = seconds;
  say(`embedded run: ${seconds} s of work, engines computed in ${(covered / 1000).toFixed(1)} s of them`);
}

/** What is asked for, and of which ratio or figure. */
const bounds: readonly { readonly of: string; readonly atMost?: number; readonly atLeast?: number }[] = [
  { of: 'cpu_ms_per_sample', atMost: 2 },
  { of: 'reconciler_rss_mb', atMost: 300 },
  { of: 'cost_per_task_100k_vs_10k', atMost: 1 },
  { of: 'non_compute_share', atMost: 0.1 },
  { of: 'pipelined_vs_sequential', atMost: 0.86 },
  { of: 'clips_per_second_pipelined_vs_sequential', atLeast: 1 },
];

try {
  const parts = { pipeline, embedded, queues };
  for (const [name, part] of Object.entries(parts)) {
    if (values.only === undefined || values.only === name) await part();
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
const services = ['loop', 'broker', 'generator', 'reward', 'judge', 'trainer'];
const each = services.flatMap((name) => figures[`${name}_cpu_ms_per_sample`] ?? []);
// Without one of them it would pass for less than it is.
if (each.length === services.length) figures['cpu_ms_per_sample'] = each.reduce((sum, one) => sum + one, 0);
for (const { of, atMost = Infinity, atLeast = -Infinity } of bounds) {
  const found = ratios[of] ?? figures[of];
  if (found === undefined) continue;
  const bound = atMost === Infinity ? `at least ${atLeast}` : `at most ${atMost}`;
  say(`${of} ${found.toPrecision(3)}, ${bound}: ${found <= atMost && found >= atLeast ? 'met' : 'MISSED'}`);
}
printBench({ bench: 'loop', ratios, figures }, values.json);
