import { execFileSync, spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { chown, mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';

/** A PostgreSQL server of a test's own. */
export interface PostgresServer {
  readonly url: string;
  /** Cuts every connection of others; gives how many there were. */
  cutConnections(): Promise<number>;
  /**
   * SIGKILL to the server process of somebody's connection, after which the server cuts all others and recovers as from a
   * crash; false when there was none.
   */
  killBackend(): Promise<boolean>;
  /** Shuts it down as a crash would (no checkpoint, every connection cut), and starts it again. */
  crashAndRestart(): Promise<void>;
  stop(): Promise<void>;
}

/** The folder of PostgreSQL's programs, newest first; undefined when none is installed. */
function findPrograms(): string | undefined {
  const root = '/usr/lib/postgresql';
  const versions = existsSync(root) ? readdirSync(root).toSorted((a, b) => Number(b) - Number(a)) : [];
  const folders = [
    ...versions.map((version) => path.join(root, version, 'bin')),
    ...(process.env['PATH'] ?? '').split(':'),
  ];
  return folders.find(
    (folder) => existsSync(path.join(folder, 'initdb')) && existsSync(path.join(folder, 'postgres')),
  );
}

/** Why no server can be started here; undefined when one can. */
export const postgresMissing: string | undefined =
  findPrograms() === undefined
    ? 'PostgreSQL is not installed (initdb and postgres were not found)'
    : undefined;

/** Starts a server with an empty database in a folder of its own. PostgreSQL refuses to run as root: root becomes nobody. */
export async function startPostgres(): Promise<PostgresServer> {
  const programs = findPrograms();
  if (programs === undefined) throw new Error(postgresMissing);
  const folder = await mkdtemp(path.join(tmpdir(), 'plumb-postgres-'));
  const isRoot = process.getuid?.() === 0;
  const user = isRoot ? { uid: idOf('-u'), gid: idOf('-g') } : {};
  if (user.uid !== undefined) await chown(folder, user.uid, user.gid);
  const data = path.join(folder, 'data');
  const port = await freePort();
  execFileSync(
    path.join(programs, 'initdb'),
    ['-D', data, '-U', 'plumb', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync'],
    { ...user, stdio: 'ignore' },
  );
  let end: (signal: NodeJS.Signals) => Promise<void> = () => Promise.resolve();
  const start = async (): Promise<void> => {
    const server = spawn(
      path.join(programs, 'postgres'),
      ['-D', data, '-h', '127.0.0.1', '-p', String(port), '-k', folder, '-F'],
      { ...user, stdio: ['ignore', 'ignore', 'pipe'] },
    );
    const exited = new Promise<void>((resolve) => server.once('exit', () => resolve()));
    await new Promise<void>((resolve, reject) => {
      server.once('exit', (code) => reject(new Error(`postgres ended with ${code} before it was ready`)));
      server.stderr.setEncoding('utf8').on('data', (text: string) => {
        if (text.includes('ready to accept connections')) resolve();
      });
    });
    end = async (signal) => {
      server.kill(signal);
      await exited;
    };
  };
  await start();
  const url = `postgres://plumb@127.0.0.1:${port}/postgres`;
  return {
    url,
    async cutConnections() {
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      try {
        const { rowCount } = await client.query(
          `select pg_terminate_backend(pid) from pg_stat_activity
            where backend_type = 'client backend' and pid <> pg_backend_pid()`,
        );
        return rowCount ?? 0;
      } finally {
        await client.end();
      }
    },
    async killBackend() {
      const client = new pg.Client({ connectionString: url });
      // The server cuts this connection with the others.
      client.on('error', () => undefined);
      try {
        await client.connect();
        const { rows } = await client.query<{ pid: number }>(
          `select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid() limit 1`,
        );
        const pid = rows[0]?.pid;
        return pid !== undefined && process.kill(pid, 'SIGKILL');
      } catch (error) {
        // Still recovering (57P03), or gone meanwhile.
        const { code } = error as { code?: string };
        if (code === '57P03' || code === 'ESRCH' || code === 'ECONNREFUSED' || code === 'ECONNRESET')
          return false;
        throw error;
      } finally {
        await client.end().catch(() => undefined);
      }
    },
    async crashAndRestart() {
      // SIGQUIT is PostgreSQL's immediate shutdown.
      await end('SIGQUIT');
      await start();
    },
    async stop() {
      // SIGINT is PostgreSQL's fast shutdown.
      await end('SIGINT');
      await rm(folder, { recursive: true, force: true });
    },
  };
}

function idOf(flag: '-u' | '-g'): number {
  return Number(execFileSync('id', [flag, 'nobody'], { encoding: 'utf8' }));
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
