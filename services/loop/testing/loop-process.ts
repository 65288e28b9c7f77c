import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** A loop service in a process of its own, at an address that stays the same. */
export interface LoopProcess {
  readonly address: string;
  /** SIGKILL, and starts it again. */
  killAndRestart(): Promise<void>;
  /** SIGTERM; gives the exit code. */
  stop(): Promise<number | null>;
}

/** Starts services/loop/main.ts with these variables and waits for its ready line. */
export async function startLoop(environment: Readonly<Record<string, string>>): Promise<LoopProcess> {
  const address = `127.0.0.1:${await freePort()}`;
  let child: ChildProcess | undefined;

  const start = async (): Promise<void> => {
    const main = fileURLToPath(new URL('../main.ts', import.meta.url));
    const started = spawn(process.execPath, [main], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...environment, PLUMB_LISTEN: address },
    });
    child = started;
    // The end of the log says why a start failed.
    let log = '';
    started.stderr.setEncoding('utf8').on('data', (text: string) => {
      log = (log + text).slice(-4_000);
    });
    const [line] = (await Promise.race([
      once(createInterface({ input: started.stdout }), 'line'),
      once(started, 'exit').then(([code]) => {
        throw new Error(`the loop ended with ${String(code)} before it was ready:\n${log}`);
      }),
    ])) as [string];
    if (!line.includes('"ready":true')) throw new Error(`no ready line, but: ${line}`);
  };
  const end = async (signal: NodeJS.Signals): Promise<number | null> => {
    const running = child;
    child = undefined;
    if (running === undefined || running.exitCode !== null) return running?.exitCode ?? null;
    const exited = once(running, 'exit');
    running.kill(signal);
    const [code] = (await exited) as [number | null];
    return code;
  };

  await start();
  return {
    address,
    async killAndRestart() {
      await end('SIGKILL');
      await start();
    },
    stop: async () => await end('SIGTERM'),
  };
}

async function freePort(): Promise<number> {
  return await new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}
