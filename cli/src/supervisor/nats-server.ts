import { accessSync, constants } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { failedPrecondition } from '@plumb/kit/errors';
import type { ComponentSpec } from './component.ts';
import { loopback } from './ports.ts';

/** Folders that are searched besides PATH: Debian's and Homebrew's. */
const moreFolders = ['/usr/local/sbin', '/usr/sbin', '/opt/homebrew/bin'];

/**
 * The path of nats-server.
 * @throws PlumbError FAILED_PRECONDITION if it is not installed.
 */
export function findNatsServer(pathVariable: string): string {
  for (const folder of [...pathVariable.split(delimiter), ...moreFolders]) {
    if (folder === '') continue;
    const candidate = join(folder, 'nats-server');
    try {
      accessSync(candidate, constants.X_OK);
      return candidate;
    } catch {
      // Not in this folder; the next may have it.
    }
  }
  throw failedPrecondition(
    'nats-server is not installed; `./plumb demo` installs it where it may, otherwise put version 2.9 or newer on PATH',
  );
}

/** The broker's configuration file: loopback only, everything in the state folder, bounded in memory and on disk. */
export function natsConfiguration(options: { port: number; monitorPort: number; store: string }): string {
  return [
    '# Written by plumb at every start.',
    `server_name: plumb`,
    `listen: "${loopback}:${options.port}"`,
    `http: "${loopback}:${options.monitorPort}"`,
    // Clips and weights never travel through the broker, so a message is small.
    'max_payload: 4MB',
    'max_connections: 256',
    'write_deadline: "10s"',
    'jetstream {',
    `  store_dir: ${JSON.stringify(options.store)}`,
    '  max_memory_store: 256MB',
    '  max_file_store: 4GB',
    '}',
    '',
  ].join('\n');
}

/** The broker as a component: writes its configuration and is ready when JetStream answers. */
export async function natsComponent(options: {
  executable: string;
  folder: string;
  port: number;
  monitorPort: number;
}): Promise<ComponentSpec> {
  const store = join(options.folder, 'store');
  const configurationFile = join(options.folder, 'nats-server.conf');
  await mkdir(store, { recursive: true });
  await writeFile(
    configurationFile,
    natsConfiguration({ port: options.port, monitorPort: options.monitorPort, store }),
  );
  const health = `http://${loopback}:${options.monitorPort}/healthz?js-enabled-only=true`;
  return {
    name: 'nats-server',
    command: options.executable,
    args: ['--config', configurationFile],
    env: {},
    after: [],
    readiness: async (signal) => {
      try {
        const response = await fetch(health, { signal });
        await response.arrayBuffer();
        return response.ok;
      } catch {
        // Not listening yet; the start deadline bounds the asking.
        return false;
      }
    },
    startDeadlineMs: 60_000,
    stopDeadlineMs: 10_000,
    turn: 1,
    address: `${loopback}:${options.port}`,
  };
}
