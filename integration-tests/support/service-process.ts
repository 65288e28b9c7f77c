import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import path from 'node:path';

/** A service of ours, in a process of its own. */
export interface ServiceProcess {
  /** gRPC address. */
  readonly address: string;
  readonly pid: number;
  /** What it wrote to standard error, the last 4 million characters. */
  readonly log: () => string;
  /** SIGKILL, and waits until the process is gone. */
  kill(): Promise<void>;
  /** SIGTERM, and gives the exit code. */
  stop(): Promise<number | null>;
}

const root = path.resolve(import.meta.dirname, '../..');

/**
 * Starts `services/<name>/main.ts` and waits for its ready line.
 * @param env over the test's own environment
 * @throws Error with the service's log when it ends before it is ready
 */
export function startService(name: string, env: Readonly<Record<string, string>>): Promise<ServiceProcess> {
  return startProcess(`services/${name}/main.ts`, env);
}

/** As startService, for any program of ours that prints the ready line: its path from the root, and its arguments. */
export async function startProcess(
  entry: string,
  env: Readonly<Record<string, string>>,
  args: readonly string[] = [],
): Promise<ServiceProcess> {
  const child = spawn(process.execPath, [path.join(root, entry), ...args], {
    cwd: root,
    env: { ...process.env, PLUMB_PARENT_PIPE: '1', PLUMB_LOG_LEVEL: 'info', ...env },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    log = (log + text).slice(-4_000_000);
    if (process.env['PLUMB_TEST_LOGS'] === '1') process.stderr.write(text);
  });
  const exited = once(child, 'exit');
  // The stream ends with the process, which ends the loop too.
  for await (const line of createInterface({ input: child.stdout })) {
    const ready: unknown = JSON.parse(line);
    if (
      typeof ready === 'object' &&
      ready !== null &&
      'address' in ready &&
      typeof ready.address === 'string'
    ) {
      const end = async (signal: NodeJS.Signals): Promise<number | null> => {
        if (child.exitCode === null && child.signalCode === null) {
          child.kill(signal);
          await exited;
        }
        return child.exitCode;
      };
      return {
        address: ready.address,
        pid: child.pid ?? 0,
        log: () => log,
        kill: async () => {
          await end('SIGKILL');
        },
        stop: () => end('SIGTERM'),
      };
    }
  }
  await exited;
  throw new Error(`${entry} ended with code ${child.exitCode} before it was ready:\n${log}`);
}

/** Process ids of the children of a process: the engines of a service. */
export async function childrenOf(pid: number): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return text.split(' ').filter(Boolean).map(Number);
}
