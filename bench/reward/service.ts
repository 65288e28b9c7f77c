/** A reward service with its broker, in a folder of its own, for benchmarks. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import { z } from 'zod';

const readyLine = z.object({ address: z.string() });
const root = join(import.meta.dirname, '../..');

/** A running service. */
export interface BenchService {
  readonly address: string;
  readonly artifacts: string;
  /** Resolves when the process has ended, with what it ended by. */
  readonly ended: Promise<string>;
  /** Resident memory of the service and of all processes that it has started, in MiB; shared pages count in each. */
  memoryMib(): Promise<number>;
  stop(): Promise<void>;
}

/** Of a process and its descendants, in MiB; 0 for one that has ended. */
async function residentMib(pid: number): Promise<number> {
  const read = (name: string): Promise<string> => readFile(`/proc/${pid}/${name}`, 'utf8').catch(() => '');
  const [status, children] = await Promise.all([read('status'), read(`task/${pid}/children`)]);
  const own = Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) / 1024;
  const below = await Promise.all(children.split(' ').filter(Boolean).map(Number).map(residentMib));
  return below.reduce((sum, mib) => sum + mib, own);
}

/** Starts the service with the definitions of a folder. What it logs goes to standard error. */
export async function startRewardService(
  rewards: string,
  env: Readonly<Record<string, string>> = {},
): Promise<BenchService> {
  const folder = await mkdtemp(join(tmpdir(), 'plumb-bench-reward-'));
  const artifacts = join(folder, 'artifacts');
  await mkdir(artifacts);
  const nats = await startNatsServer();
  const child = spawn(process.execPath, [join(root, 'services/reward/main.ts')], {
    cwd: root,
    stdio: ['pipe', 'pipe', 'inherit'],
    env: {
      ...process.env,
      PLUMB_PARENT_PIPE: '1',
      PLUMB_LOG_LEVEL: 'error',
      PLUMB_NATS_URL: nats.url,
      PLUMB_ARTIFACTS: artifacts,
      PLUMB_SPAN_DIRECTORY: join(folder, 'spans'),
      PLUMB_REWARDS: rewards,
      PLUMB_METRICS_LISTEN: '127.0.0.1:0',
      // No reward here asks a judge.
      PLUMB_JUDGE_ADDRESS: '127.0.0.1:1',
      ...env,
    },
  });
  const ended = once(child, 'exit').then(([code, signal]) => String(code ?? signal));
  for await (const line of createInterface({ input: child.stdout })) {
    const { address } = readyLine.parse(JSON.parse(line));
    return {
      address,
      artifacts,
      ended,
      memoryMib: () => residentMib(child.pid ?? 0),
      async stop() {
        child.kill('SIGTERM');
        await ended;
        await nats.stop();
        await rm(folder, { recursive: true, force: true });
      },
    };
  }
  await nats.stop();
  throw new Error(`the reward service ended before it was ready: ${await ended}`);
}
