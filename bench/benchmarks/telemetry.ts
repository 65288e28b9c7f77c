/**
 * What tracing costs: whole embedded runs with full sampling, without tracing, with a collector that is down (connections are
 * refused), and with one that takes a second for each answer, in turns, so that other load on the machine falls on all of
 * them. The spans that the services lost are read from their metrics while they run.
 *
 *     npm run bench -- telemetry [--json] [--rounds=3]
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { printBench } from '../print-bench.ts';
import { processorSecondsOfChildren, watchProcessorTime } from '../processor-time.ts';

const { values } = parseArgs({
  options: { json: { type: 'boolean', default: false }, rounds: { type: 'string', default: '3' } },
});
const rounds = Number(values.rounds);
const root = resolve(import.meta.dirname, '../..');
const folder = await mkdtemp(join(tmpdir(), 'plumb-bench-telemetry-'));

// Small enough for many rounds, with as many spans a second as a demo makes.
const size = [
  '--prompts-per-category=4',
  '--heldout-per-category=1',
  '--samples-per-prompt=8',
  '--heldout-samples=2',
  '--sampler-steps=8',
  '--steps=6',
  '--batch-size=4',
];

/** Time that the slow collector takes for an answer, in milliseconds; an export that waits for 2 s is given up. */
const slowMs = 1000;

let slowRequests = 0;
const slow = createServer((request, response) => {
  slowRequests += 1;
  request.resume();
  setTimeout(() => response.end(), slowMs);
}).listen(0, '127.0.0.1');
const refusing = createServer().listen(0, '127.0.0.1');
await Promise.all([once(slow, 'listening'), once(refusing, 'listening')]);
const urlOf = (server: Server): string => {
  const bound = server.address();
  if (bound === null || typeof bound === 'string') throw new TypeError('not listening on a port');
  return `http://127.0.0.1:${bound.port}`;
};
const slowUrl = urlOf(slow);
// A port that was free a moment ago and has nobody behind it.
const refusedUrl = urlOf(refusing);
refusing.close();

const variants = {
  off: { PLUMB_TRACES: 'false' },
  on: { PLUMB_TRACES: 'true' },
  collectorDown: { PLUMB_TRACES: 'true', OTEL_EXPORTER_OTLP_ENDPOINT: refusedUrl },
  slowCollector: { PLUMB_TRACES: 'true', OTEL_EXPORTER_OTLP_ENDPOINT: slowUrl },
} as const;
type Variant = keyof typeof variants;

const processesSchema = z.object({
  components: z.array(z.object({ name: z.string(), metrics: z.string().optional() })),
});

/** Spans that the services of a run have lost so far; undefined where none can be asked. */
async function lostSpans(state: string): Promise<number | undefined> {
  try {
    const text = await readFile(join(state, 'processes.json'), 'utf8');
    let lost = 0;
    for (const { metrics } of processesSchema.parse(JSON.parse(text)).components) {
      if (metrics === undefined) continue;
      const page = await (await fetch(`http://${metrics}/metrics`)).text();
      for (const [, value] of page.matchAll(/^plumb_telemetry_lost_spans_total\{[^}]*\} (\d+)/gm))
        lost += Number(value);
    }
    return lost;
  } catch {
    // The run is starting or stopping: the reading before this one stands.
    return undefined;
  }
}

/** Spans lost in all rounds. */
const lostBy: Record<Variant, number> = { off: 0, on: 0, collectorDown: 0, slowCollector: 0 };

/** What one run took. */
interface Run {
  /** In the time that the run itself took: starting and stopping the processes is left out. */
  readonly samplesPerSecond: number;
  /** Of all processes, starting them included: other work on the machine hardly touches it. */
  readonly cpuSecondsPerSample: number;
  /** Of the services alone, from when each was ready: where tracing happens. Their engines are processes of their own. */
  readonly servicesCpuSecondsPerSample: number;
}

async function measure(variant: Variant, round: number): Promise<Run> {
  const cpuBefore = await processorSecondsOfChildren();
  const state = join(folder, `${variant}-${round}`);
  const child = spawn(
    process.execPath,
    [join(root, 'cli/src/main.ts'), 'demo', '--json', ...size, '--state', state],
    {
      cwd: folder,
      env: { ...process.env, OTEL_EXPORTER_OTLP_ENDPOINT: '', ...variants[variant] },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  let stdout = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  let lost = 0;
  const reading = setInterval(() => {
    void (async () => {
      lost = Math.max(lost, (await lostSpans(state)) ?? 0);
    })();
  }, 1000);
  const closed = once(child, 'close') as Promise<[number | null]>;
  const services = await watchProcessorTime(join(state, 'processes.json'), closed);
  const [code] = await closed;
  clearInterval(reading);
  lostBy[variant] += lost;
  if (code !== 0) throw new Error(`the demo ended with ${code}:\n${stderr}`);
  const { samples, seconds } = JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '') as {
    samples: number;
    seconds: number;
  };
  await rm(state, { recursive: true, force: true });
  const run: Run = {
    samplesPerSecond: samples / seconds,
    cpuSecondsPerSample: ((await processorSecondsOfChildren()) - cpuBefore) / samples,
    servicesCpuSecondsPerSample: [...services.values()].reduce((sum, one) => sum + one, 0) / samples,
  };
  process.stderr.write(
    `round ${round + 1}, ${variant}: ${run.samplesPerSecond.toFixed(2)} samples a second, ` +
      `${run.cpuSecondsPerSample.toFixed(3)} s of processor time a sample, ` +
      `${run.servicesCpuSecondsPerSample.toFixed(4)} s in services\n`,
  );
  return run;
}

const measured: Record<Variant, Run[]> = { off: [], on: [], collectorDown: [], slowCollector: [] };
try {
  for (let round = 0; round < rounds; round++) {
    const order: Variant[] = ['off', 'on', 'collectorDown', 'slowCollector'];
    // Each place in a round is had by each variant in turn.
    for (let i = 0; i < order.length; i++) {
      const variant = order[(i + round) % order.length] ?? 'off';
      measured[variant].push(await measure(variant, round));
    }
  }
} finally {
  slow.closeAllConnections();
  slow.close();
  await rm(folder, { recursive: true, force: true });
}

const middle = (variant: Variant, value: (run: Run) => number): number =>
  median(measured[variant].map(value));
const throughput = (variant: Variant): number => middle(variant, (run) => run.samplesPerSecond);
const cpu = (variant: Variant): number => middle(variant, (run) => run.cpuSecondsPerSample);
const servicesCpu = (variant: Variant): number => middle(variant, (run) => run.servicesCpuSecondsPerSample);
/** What a variant adds to the services' processor time, as a share of all that a sample takes without tracing. */
const added = (variant: Variant): number => (servicesCpu(variant) - servicesCpu('off')) / cpu('off');

printBench(
  {
    bench: 'telemetry',
    ratios: {
      throughput_on_vs_off: throughput('on') / throughput('off'),
      throughput_collector_down_vs_on: throughput('collectorDown') / throughput('on'),
      throughput_slow_collector_vs_on: throughput('slowCollector') / throughput('on'),
      // Wall time has the noise of the machine in it; this has not.
      cpu_share_of_tracing: added('on'),
      cpu_share_with_collector_down: added('collectorDown'),
      cpu_share_with_slow_collector: added('slowCollector'),
    },
    figures: {
      samples_per_second_off: throughput('off'),
      samples_per_second_on: throughput('on'),
      samples_per_second_collector_down: throughput('collectorDown'),
      samples_per_second_slow_collector: throughput('slowCollector'),
      cpu_seconds_per_sample_off: cpu('off'),
      services_cpu_seconds_per_sample_off: servicesCpu('off'),
      services_cpu_seconds_per_sample_on: servicesCpu('on'),
      lost_spans_on: lostBy.on,
      lost_spans_collector_down: lostBy.collectorDown,
      lost_spans_slow_collector: lostBy.slowCollector,
      requests_to_the_slow_collector: slowRequests,
      rounds,
    },
  },
  values.json,
);

function median(all: readonly number[]): number {
  const sorted = all.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? Number.NaN)
    : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
}
