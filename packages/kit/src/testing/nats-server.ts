import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** A real nats-server with JetStream, for tests. */
export interface TestNatsServer {
  readonly url: string;
  readonly port: number;
  /** Process id at present; 0 while it is killed. */
  readonly pid: number;
  /** SIGKILL, and waits until the process is gone. */
  kill(): Promise<void>;
  /** Starts it again on the same port with the same store, and waits until it listens. */
  restart(): Promise<void>;
  /** Ends it and removes its store. */
  stop(): Promise<void>;
}

/** Starts a nats-server on a free loopback port with a store of its own. @throws Error when there is none on the PATH */
export async function startNatsServer(
  options: {
    readonly port?: number;
    readonly storeDirectory?: string;
    /** Path of a configuration file, for what the arguments do not say. */
    readonly configuration?: string;
  } = {},
): Promise<TestNatsServer> {
  const port = options.port ?? (await freePort());
  const ownStore = options.storeDirectory === undefined;
  const store = options.storeDirectory ?? (await mkdtemp(path.join(tmpdir(), 'plumb-nats-')));
  const settings = options.configuration === undefined ? [] : ['--config', options.configuration];
  let child: ChildProcess | undefined;

  const start = async (): Promise<void> => {
    const started = spawn(
      'nats-server',
      [...settings, '--addr', '127.0.0.1', '--port', String(port), '--jetstream', '--store_dir', store],
      // Debian keeps it in a folder that only root has on its PATH.
      {
        stdio: 'ignore',
        env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/usr/local/sbin` },
      },
    );
    await once(started, 'spawn');
    child = started;
    while (!(await listens(port))) {
      if (started.exitCode !== null)
        throw new Error(`nats-server ended with ${started.exitCode} at its start`);
      await delay(10);
    }
  };
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    const running = child;
    child = undefined;
    if (running === undefined || running.exitCode !== null || running.signalCode !== null) return;
    const exited = once(running, 'exit');
    running.kill(signal);
    await exited;
  };

  await start();
  return {
    url: `nats://127.0.0.1:${port}`,
    port,
    get pid() {
      return child?.pid ?? 0;
    },
    kill: async () => {
      await end('SIGKILL');
    },
    restart: start,
    stop: async () => {
      await end('SIGKILL');
      if (ownStore) await rm(store, { recursive: true, force: true });
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('the operating system gave no port');
  return address.port;
}

async function listens(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
