/**
 * What tracing costs: whole embedded runs with full sampling, without tracing, and with a collector that takes connections
 * and never answers, in turns, so that other load on the machine falls on all of them.
 *
 *     npm run bench -- telemetry [--json] [--rounds=3]
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { printBench } from '../print-bench.ts';

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

let refusedRequests = 0;
const silent = createServer((request) => {
  refusedRequests += 1;
  request.resume();
}).listen(0, '127.0.0.1');
await once(silent, 'listening');
const bound = silent.address();
if (bound === null || typeof bound === 'string') throw new TypeError('not listening on a port');

const variants = {
  off: { PLUMB_TRACES: 'false' },
  on: { PLUMB_TRACES: 'true' },
  silentCollector: { PLUMB_TRACES: 'true', OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${bound.port}` },
} as const;
type Variant = keyof typeof variants;

/** Samples a second from the first task to the end of the run: starting the processes is left out. */
async function throughput(variant: Variant, round: number): Promise<number> {
  const child = spawn(
    process.execPath,
    [
      join(root, 'cli/src/main.ts'),
      'demo',
      '--json',
      ...size,
      '--state',
      join(folder, `${variant}-${round}`),
    ],
    {
      cwd: folder,
      env: { ...process.env, OTEL_EXPORTER_OTLP_ENDPOINT: '', ...variants[variant] },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  let stdout = '';
  let startedAt: number | undefined;
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    if (/^train prompts, generate/m.test(stderr)) startedAt ??= performance.now();
  });
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0 || startedAt === undefined) throw new Error(`the demo ended with ${code}:\n${stderr}`);
  const seconds = (performance.now() - startedAt) / 1000;
  const { samples } = JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '') as { samples: number };
  await rm(join(folder, `${variant}-${round}`), { recursive: true, force: true });
  process.stderr.write(
    `round ${round + 1}, ${variant}: ${(samples / seconds).toFixed(2)} samples a second\n`,
  );
  return samples / seconds;
}

const measured: Record<Variant, number[]> = { off: [], on: [], silentCollector: [] };
try {
  for (let round = 0; round < rounds; round++) {
    const order: Variant[] = ['off', 'on', 'silentCollector'];
    // Each place in a round is had by each variant in turn.
    for (let i = 0; i < order.length; i++) {
      const variant = order[(i + round) % order.length] ?? 'off';
      measured[variant].push(await throughput(variant, round));
    }
  }
} finally {
  silent.closeAllConnections();
  silent.close();
  await rm(folder, { recursive: true, force: true });
}

printBench(
  {
    bench: 'telemetry',
    ratios: {
      throughput_on_vs_off: median(measured.on) / median(measured.off),
      throughput_silent_collector_vs_on: median(measured.silentCollector) / median(measured.on),
    },
    figures: {
      samples_per_second_off: median(measured.off),
      samples_per_second_on: median(measured.on),
      samples_per_second_silent_collector: median(measured.silentCollector),
      requests_to_the_silent_collector: refusedRequests,
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
