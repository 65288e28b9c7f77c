import { mkdir, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describeError } from '@plumb/kit/errors';
import type { StateFolder } from '../state/state-folder.ts';
import { defaultStudies } from '../studies/default-studies.ts';
import { writeWhole } from '../state/state-folder.ts';
import type { ComponentSpec } from './component.ts';
import { findNatsServer, natsComponent } from './nats-server.ts';
import { portNames } from './port-names.ts';
import type { PortName } from './port-names.ts';
import { dashboardLink, webKeyFile } from '../dashboard/dashboard-link.ts';
import { choosePorts, loopback } from './ports.ts';
import { createSupervisor } from './supervisor.ts';
import type { Supervisor } from './supervisor.ts';

/** The five services, nats-server and the referee endpoint on this machine, in one state folder. */
export interface EmbeddedSystem {
  readonly supervisor: Supervisor;
  /** Addresses as host:port. */
  readonly addresses: Readonly<Record<PortName, string>>;
  /** Folder of the artifact store. */
  readonly artifactFolder: string;
  /** A link to the dashboard that lets whoever has it do everything, for a day. */
  readonly dashboard: () => Promise<string>;
  /** Stops everything, in order. */
  stop(): Promise<void>;
}

/** Names of the components: the port names, except that the broker and the loop have two ports. */
export type ComponentName = Exclude<PortName, 'nats' | 'nats-monitor' | 'web'> | 'nats-server';

const root = fileURLToPath(new URL('../../../', import.meta.url));
/** Long, because a machine that is busy with other things can take a minute to load a service. */
const startDeadlineMs = 180_000;
const stopDeadlineMs = 25_000;

/**
 * Prepares the embedded system; nothing runs before `supervisor.start()`.
 * @throws PlumbError PORT_IN_USE for a wanted port that is busy, FAILED_PRECONDITION if nats-server is missing.
 */
export async function embeddedSystem(options: {
  state: StateFolder;
  ports: Readonly<Partial<Record<PortName, number>>>;
  /** Starts these alone, for commands that need no more; all unless given. */
  only?: readonly ComponentName[];
  notice: (line: string) => void;
}): Promise<EmbeddedSystem> {
  const { state } = options;
  const executable = findNatsServer(process.env['PATH'] ?? '');
  const ports = await choosePorts(portNames, options.ports);
  const address = (name: PortName): string => `${loopback}:${ports[name]}`;
  const addresses = Object.fromEntries(portNames.map((name) => [name, address(name)])) as Record<
    PortName,
    string
  >;
  const artifactFolder = state.entry('artifacts');
  await mkdir(artifactFolder, { recursive: true });
  await mkdir(state.entry('spans'), { recursive: true });

  const shared: Record<string, string> = {
    PLUMB_NATS_URL: `nats://${addresses.nats}`,
    PLUMB_ARTIFACTS: artifactFolder,
    PLUMB_SPAN_DIRECTORY: state.entry('spans'),
    PLUMB_METRICS_LISTEN: `${loopback}:0`,
  };
  const program = (
    name: PortName,
    path: string,
    env: Record<string, string>,
    after: string[],
  ): ComponentSpec => ({
    name,
    command: process.execPath,
    args: [join(root, path)],
    env: { ...shared, PLUMB_PARENT_PIPE: '1', ...env },
    after,
    readiness: 'line',
    startDeadlineMs,
    stopDeadlineMs,
    turn: 0,
    address: addresses[name],
  });
  const service = (name: PortName, env: Record<string, string>, after: string[]): ComponentSpec =>
    program(name, `services/${name}/main.ts`, { PLUMB_LISTEN: addresses[name], ...env }, after);

  const all: readonly ComponentSpec[] = [
    await natsComponent({
      executable,
      folder: state.entry('nats'),
      port: ports.nats,
      monitorPort: ports['nats-monitor'],
    }),
    program(
      'referee',
      'packages/toybox/bin/referee-endpoint.ts',
      { PLUMB_REFEREE_LISTEN: addresses.referee },
      [],
    ),
    service(
      'judge',
      {
        PLUMB_JUDGES_FILE:
          process.env['PLUMB_JUDGES_FILE'] ?? join(root, 'services/judge/judges.toybox.yaml'),
        PLUMB_REFEREE_URL: `http://${addresses.referee}/v1`,
      },
      ['nats-server', 'referee'],
    ),
    service('trainer', { PLUMB_REWARD_ADDRESS: addresses.reward }, ['nats-server']),
    service('generator', {}, ['nats-server']),
    service('reward', { PLUMB_JUDGE_ADDRESS: addresses.judge }, ['judge']),
    service(
      'loop',
      {
        PLUMB_TRAINER_ADDRESS: addresses.trainer,
        PLUMB_REWARD_ADDRESS: addresses.reward,
        PLUMB_JUDGE_ADDRESS: addresses.judge,
        PLUMB_DATABASE_URL: process.env['PLUMB_DATABASE_URL'] ?? `pglite:${state.entry('ledger')}`,
        PLUMB_WEB_LISTEN: addresses.web,
        PLUMB_WEB_KEY_FILE: await webKeyFile(state),
        PLUMB_STUDIES: process.env['PLUMB_STUDIES'] ?? resolve(defaultStudies),
      },
      ['trainer', 'generator', 'reward'],
    ),
  ];
  const wanted = new Set<string>(options.only ?? all.map(({ name }) => name));
  const components = all
    .filter(({ name }) => wanted.has(name))
    .map((spec) => ({ ...spec, after: spec.after.filter((name) => wanted.has(name)) }));
  const record = recordProcesses(state, options.notice);
  const supervisor = await createSupervisor({
    components,
    logFolder: state.entry('logs'),
    notice: options.notice,
    changed: record.write,
  });
  return {
    supervisor,
    addresses,
    artifactFolder,
    dashboard: async () =>
      await dashboardLink(state, addresses.web, { name: 'operator', roles: ['admin'], days: 1 }),
    async stop() {
      await supervisor.stop();
      await record.remove();
    },
  };
}

interface ProcessRecord {
  readonly write: (components: ReturnType<Supervisor['status']>, guardPid: number | undefined) => void;
  readonly remove: () => Promise<void>;
}

/** Keeps `processes.json` current: one write at a time, always ending with the newest picture. */
function recordProcesses(state: StateFolder, notice: (line: string) => void): ProcessRecord {
  const path = state.entry('processes.json');
  let newest: string | undefined;
  let writing: Promise<void> | undefined;
  let complained = false;
  const writeAll = async (): Promise<void> => {
    try {
      while (newest !== undefined) {
        const text = newest;
        newest = undefined;
        await writeWhole(path, text);
      }
    } catch (error) {
      // Said once: the disk does not get better by repeating it.
      if (!complained) notice(`the list of processes could not be written: ${describeError(error)}`);
      complained = true;
    } finally {
      writing = undefined;
    }
  };
  return {
    write(components, guardPid) {
      newest = `${JSON.stringify({ pid: process.pid, guardPid, components }, undefined, 2)}\n`;
      writing ??= writeAll();
    },
    async remove() {
      newest = undefined;
      await writing;
      await rm(path, { force: true });
    },
  };
}
