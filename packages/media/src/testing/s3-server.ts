import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** A server that speaks S3, with an empty bucket of the name `plumb`. */
export interface TestS3Server {
  /** The variables that lead a client to it. */
  readonly env: Readonly<Record<string, string>>;
  /** SIGKILL, and waits until the process is gone. */
  kill(): Promise<void>;
  /** Starts it again on the same port; s3rver keeps what it held. */
  restart(): Promise<void>;
  /** Ends it and removes what it held. */
  stop(): Promise<void>;
}

const key = 'S3RVER';
const runS3rver = 'new (require(process.argv[1]))(JSON.parse(process.argv[2])).run()';

/**
 * `s3rver` comes with the packages of this repository and checks signatures; it knows neither conditional writes nor
 * checksums. `moto` knows both, checks no signatures, and is there where somebody has installed it (pip install moto[server]).
 */
export type S3ServerKind = 's3rver' | 'moto';

/** Where moto_server is, if it is installed. */
export function findMoto(): string | undefined {
  return (process.env['PATH'] ?? '')
    .split(':')
    .map((folder) => join(folder, 'moto_server'))
    .find((path) => existsSync(path));
}

export async function startS3Server(kind: S3ServerKind = 's3rver'): Promise<TestS3Server> {
  const folder = await mkdtemp(join(tmpdir(), 'plumb-s3-'));
  const port = await freePort();
  const moto = findMoto();
  const options = {
    address: '127.0.0.1',
    port,
    directory: folder,
    silent: true,
    configureBuckets: [{ name: 'plumb' }],
  };
  const [command, args] =
    kind === 'moto'
      ? [moto ?? 'moto_server', ['-H', '127.0.0.1', '-p', String(port)]]
      : [
          process.execPath,
          [
            '-e',
            runS3rver,
            createRequire(import.meta.url).resolve('@20minutes/s3rver'),
            JSON.stringify(options),
          ],
        ];
  const start = async (): Promise<() => Promise<void>> => {
    const child = spawn(command, args, { stdio: 'ignore' });
    const exited = once(child, 'exit');
    await once(child, 'spawn');
    while (!(await listens(port))) {
      if (child.exitCode !== null) throw new Error(`${command} ended with ${child.exitCode} at its start`);
      await delay(20);
    }
    if (kind === 'moto') await fetch(`http://127.0.0.1:${port}/plumb`, { method: 'PUT' });
    return async () => {
      child.kill('SIGKILL');
      await exited;
    };
  };
  let kill = await start();
  return {
    env: {
      AWS_ENDPOINT_URL_S3: `http://127.0.0.1:${port}`,
      AWS_REGION: 'us-east-1',
      AWS_ACCESS_KEY_ID: key,
      AWS_SECRET_ACCESS_KEY: key,
    },
    kill: async () => {
      await kill();
    },
    restart: async () => {
      kill = await start();
    },
    stop: async () => {
      await kill();
      await rm(folder, { recursive: true, force: true });
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
