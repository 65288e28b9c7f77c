/**
 * The reward service under load, through real gRPC, with the load generator in a process of its own: throughput against a
 * bare loop of ONNX Runtime over full batches of the same model with as many threads, measured in turns; latency at
 * several numbers of callers; an overload of ten times what it can do; and whether scoring 1,000 clips again gives the
 * same bits in another order and other batches.
 */

import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { printBench } from '../print-bench.ts';
import type { BareJob } from '../reward/bare.ts';
import type { LoadJob, LoadReport } from '../reward/load.ts';
import { visionTower, writeBenchReward } from '../reward/model.ts';
import type { TowerSize } from '../reward/model.ts';
import { compareScorings } from '../reward/same-bits.ts';
import { startRewardService } from '../reward/service.ts';

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '8' },
    'overload-seconds': { type: 'string', default: '60' },
    concurrency: { type: 'string', default: '1,100,500,2000' },
    clips: { type: 'string', default: '1000' },
    threads: { type: 'string', default: String(Math.max(1, availableParallelism() - 1)) },
    width: { type: 'string', default: '384' },
    layers: { type: 'string', default: '12' },
  },
});

const tower: TowerSize = {
  side: 64,
  patch: 16,
  width: Number(options.width),
  heads: 6,
  layers: Number(options.layers),
  framesPerPass: 16,
  framesPerClip: 4,
};
const threads = Number(options.threads);
const seconds = Number(options.seconds);
const note = (line: string): void => {
  process.stderr.write(`${line}\n`);
};

function start(file: string): ChildProcess {
  return fork(join(import.meta.dirname, '../reward', file), {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
}

async function ask<Answer>(child: ChildProcess, job: object): Promise<Answer> {
  const answer = once(child, 'message');
  child.send(job);
  const [message] = (await answer) as [Answer];
  return message;
}

const folder = await mkdtemp(join(tmpdir(), 'plumb-bench-rewards-'));
const vision = visionTower(tower);
await writeBenchReward(folder, tower, vision);
const service = await startRewardService(folder, { PLUMB_INTRA_OP_THREADS: String(threads) });
const load = start('load.ts');
const bare = start('bare.ts');
const figures: Record<string, number> = {};
const ratios: Record<string, number> = {};
try {
  const base = {
    address: service.address,
    reward: 'bench_clip',
    side: tower.side,
    frames: tower.framesPerClip,
  };
  const saturate = (forSeconds: number): Promise<LoadReport> =>
    ask(load, {
      ...base,
      items: 32,
      deadlineMs: 120_000,
      plan: { kind: 'closed', callers: 8, calls: 1e9, seconds: forSeconds },
    } satisfies LoadJob);
  const bareJob: BareJob = {
    model: join(folder, 'vision.onnx'),
    threads,
    shape: [tower.framesPerPass, 3, tower.side, tower.side],
    seconds,
  };
  await saturate(3);
  const pairs: { through: number; alone: number }[] = [];
  for (let round = 0; round < Number(options.rounds); round += 1) {
    const { passesPerSecond } = await ask<{ passesPerSecond: number }>(bare, bareJob);
    const report = await saturate(seconds);
    const alone = (passesPerSecond * tower.framesPerPass) / tower.framesPerClip;
    pairs.push({ through: report.scored / report.seconds, alone });
    note(
      `round ${round + 1}: ${(report.scored / report.seconds).toFixed(1)} clips/s through the service, ${alone.toFixed(1)} bare`,
    );
  }
  const median = (values: readonly number[]): number =>
    values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
  const rate = median(pairs.map(({ through }) => through));
  ratios['throughput_vs_bare'] = median(pairs.map(({ through, alone }) => through / alone));
  figures['clips_per_second'] = rate;
  figures['clips_per_second_bare'] = median(pairs.map(({ alone }) => alone));

  for (const callers of options.concurrency.split(',').map(Number)) {
    const report = await ask<LoadReport>(load, {
      ...base,
      items: 1,
      deadlineMs: 600_000,
      plan: { kind: 'closed', callers, calls: Math.max(200, callers), seconds: 240 },
    } satisfies LoadJob);
    const [p50, p95, p99] = report.percentiles;
    figures[`p50_ms_at_${callers}`] = p50;
    figures[`p95_ms_at_${callers}`] = p95;
    figures[`p99_ms_at_${callers}`] = p99;
    note(
      `${callers} callers: p50 ${p50.toFixed(0)} ms, p95 ${p95.toFixed(0)}, p99 ${p99.toFixed(0)}; ${JSON.stringify(report.others)}`,
    );
  }

  const overload = ask<LoadReport>(load, {
    ...base,
    items: 1,
    deadlineMs: 5000,
    plan: { kind: 'open', callsPerSecond: 10 * rate, seconds: Number(options['overload-seconds']) },
  } satisfies LoadJob);
  let largest = 0;
  const over = new AbortController();
  const watch = async (): Promise<void> => {
    if (over.signal.aborted) return;
    largest = Math.max(largest, await service.memoryMib());
    await delay(500);
    await watch();
  };
  const watching = watch();
  const report = await overload;
  over.abort();
  await watching;
  figures['overload_calls'] = report.calls;
  figures['overload_scored'] = report.scored;
  figures['overload_refused'] = report.refused;
  figures['overload_lost'] = report.calls - report.scored - report.refused;
  figures['overload_late'] = report.late;
  figures['overload_p99_ms'] = report.percentiles[2];
  figures['overload_memory_mib'] = largest;
  note(`overload: ${JSON.stringify(report)}`);

  const clips = Number(options.clips);
  figures['rescored_clips'] = clips;
  figures['rescored_different'] = await compareScorings(service, 'bench_clip', clips, tower);
} finally {
  load.kill();
  bare.kill();
  await service.stop();
  await rm(folder, { recursive: true, force: true });
}
printBench({ bench: 'reward', ratios, figures }, options.json);
