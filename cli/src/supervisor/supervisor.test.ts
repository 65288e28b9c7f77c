import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import { logTailKey } from './component.ts';
import type { ComponentSpec } from './component.ts';
import { choosePorts, loopback } from './ports.ts';
import { createSupervisor, startOrder } from './supervisor.ts';
import type { ComponentStatus } from './supervisor.ts';

const folder = await mkdtemp(join(tmpdir(), 'plumb supervisor '));
after(() => rm(folder, { recursive: true, force: true }));

const readyLine = `console.log(JSON.stringify({ ready: true, address: 'here' }));`;
const stayAlive = `setInterval(() => {}, 1000);`;
const policy = { firstPauseMs: 1, longestPauseMs: 4, quickCrashMs: 60_000, quickCrashLimit: 3 };

function component(name: string, program: string, more: Partial<ComponentSpec> = {}): ComponentSpec {
  return {
    name,
    command: process.execPath,
    args: ['-e', program],
    env: {},
    after: [],
    readiness: 'line',
    startDeadlineMs: 30_000,
    stopDeadlineMs: 10_000,
    turn: 0,
    address: 'here',
    ...more,
  };
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** Waits until what the supervisor reports meets a condition. */
function watcher(): {
  changed: (components: readonly ComponentStatus[]) => void;
  until: (condition: (components: readonly ComponentStatus[]) => boolean) => Promise<void>;
} {
  let latest: readonly ComponentStatus[] = [];
  const waiting = new Set<{
    condition: (components: readonly ComponentStatus[]) => boolean;
    resolve: () => void;
  }>();
  return {
    changed(components) {
      latest = components;
      for (const waiter of waiting) {
        if (!waiter.condition(latest)) continue;
        waiting.delete(waiter);
        waiter.resolve();
      }
    },
    until(condition) {
      if (condition(latest)) return Promise.resolve();
      return new Promise((resolve) => waiting.add({ condition, resolve }));
    },
  };
}

test('components start after those they need and stop before them', async () => {
  const order: string[] = [];
  const seen = new Map<string, string>();
  const supervisor = await createSupervisor({
    components: [
      component('last', readyLine + stayAlive, { after: ['middle'] }),
      component('first', readyLine + stayAlive),
      component('middle', readyLine + stayAlive, { after: ['first'] }),
    ],
    logFolder: folder,
    notice: () => {},
    changed(components) {
      for (const { name, state } of components) {
        if (seen.get(name) !== state && (state === 'ready' || state === 'stopped'))
          order.push(`${name} ${state}`);
        seen.set(name, state);
      }
    },
  });
  await supervisor.start();
  await supervisor.stop();
  assert.deepEqual(order, [
    'first ready',
    'middle ready',
    'last ready',
    'last stopped',
    'middle stopped',
    'first stopped',
  ]);
});

test('a killed process is started again, and one line says so', async () => {
  const notices: string[] = [];
  const { changed, until } = watcher();
  const supervisor = await createSupervisor({
    components: [component('phoenix', readyLine + stayAlive)],
    logFolder: folder,
    notice: (line) => notices.push(line),
    changed,
    policy,
  });
  await supervisor.start();
  const first = supervisor.status()[0]?.pid;
  assert.ok(first !== undefined);
  process.kill(first, 'SIGKILL');
  await until(([status]) => status?.state === 'ready' && status.pid !== first);
  await supervisor.stop();
  assert.equal(supervisor.status()[0]?.restarts, 1);
  assert.deepEqual(notices, ['phoenix was ended by SIGKILL; starting it again in 0.001 s']);
});

test('a process that keeps crashing is given up with the last lines of its log', async () => {
  const supervisor = await createSupervisor({
    components: [component('broken', `console.error('the table is missing a leg'); process.exit(1);`)],
    logFolder: folder,
    notice: () => {},
    policy,
  });
  await assert.rejects(supervisor.start(), (error) => {
    assert.ok(error instanceof PlumbError);
    assert.equal(error.reason, 'PROCESS_FAILED');
    assert.match(
      error.message,
      /^broken exited with code 1, 3 times in a row shortly after its start; its log is .*broken\.log$/,
    );
    assert.match(error.metadata[logTailKey] ?? '', /the table is missing a leg/);
    return true;
  });
  await assert.rejects(supervisor.failed);
  await supervisor.stop();
  assert.match(await readFile(join(folder, 'broken.log'), 'utf8'), /the table is missing a leg/);
});

test('a configuration error is not tried again', async () => {
  const supervisor = await createSupervisor({
    components: [component('misled', 'process.exit(2)')],
    logFolder: folder,
    notice: () => {},
    policy,
  });
  await assert.rejects(supervisor.start(), /misled exited with code 2; its log/);
  assert.equal(supervisor.status()[0]?.restarts, 0);
  await supervisor.stop();
});

test('a program that is not there is named', async () => {
  const supervisor = await createSupervisor({
    components: [component('ghost', '', { command: join(folder, 'no such program') })],
    logFolder: folder,
    notice: () => {},
    policy,
  });
  await assert.rejects(supervisor.start(), /ghost could not be started \(.*no such program is not there\)/);
  await supervisor.stop();
});

test('a process that is never ready is ended at its deadline', async () => {
  const supervisor = await createSupervisor({
    components: [component('slow', stayAlive, { startDeadlineMs: 50 })],
    logFolder: folder,
    notice: () => {},
    policy: { ...policy, quickCrashLimit: 1 },
  });
  await assert.rejects(supervisor.start(), /slow was not ready within 0.05 s/);
  await supervisor.stop();
});

test('a process that ignores SIGTERM is killed at its deadline, and its children with it', async () => {
  const child = `
    const { spawn } = require('node:child_process');
    process.on('SIGTERM', () => {});
    const child = spawn(process.execPath, ['-e', 'process.on("SIGTERM", () => {}); setInterval(() => {}, 1000)']);
    console.error('child ' + child.pid);
    ${readyLine}${stayAlive}`;
  const supervisor = await createSupervisor({
    components: [component('stubborn', child, { stopDeadlineMs: 50 })],
    logFolder: folder,
    notice: () => {},
  });
  await supervisor.start();
  const pid = supervisor.status()[0]?.pid ?? 0;
  await supervisor.stop();
  const childPid = Number(/child (\d+)/.exec(await readFile(join(folder, 'stubborn.log'), 'utf8'))?.[1]);
  assert.equal(isAlive(pid), false);
  // A killed orphan stays in the table of processes until init has collected it.
  const state = await readFile(`/proc/${childPid}/stat`, 'utf8').catch(() => 'gone');
  assert.match(state, /gone|\) Z /);
});

test('no process outlives a command line that is killed', async () => {
  const program = `
    import { createSupervisor } from ${JSON.stringify(new URL('supervisor.ts', import.meta.url).href)};
    const supervisor = await createSupervisor({
      components: [{ name: 'orphan', command: process.execPath, args: ['-e', ${JSON.stringify(readyLine + stayAlive)}],
        env: {}, after: [], readiness: 'line', startDeadlineMs: 30000, stopDeadlineMs: 1000, turn: 0, address: '' }],
      logFolder: ${JSON.stringify(folder)}, notice: () => {},
      changed: (components, guardPid) => console.log(JSON.stringify({ pid: components[0].pid, state: components[0].state, guardPid })),
    });
    await supervisor.start();`;
  const commandLine = spawn(process.execPath, ['--input-type=module-typescript', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let guardPid = 0;
  for await (const line of createInterface({ input: commandLine.stdout })) {
    const status = JSON.parse(line) as { state: string; guardPid: number };
    guardPid = status.guardPid;
    if (status.state === 'ready') break;
  }
  const log = join(folder, 'orphan.log');
  assert.ok(guardPid > 0 && log !== '');
  commandLine.kill('SIGKILL');
  await once(commandLine, 'exit');
  // The guard ends when everything that it was told of has ended.
  while (isAlive(guardPid) && !(await isZombie(guardPid))) await new Promise(setImmediate);
});

async function isZombie(pid: number): Promise<boolean> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => ') Z ');
  return text.includes(') Z ');
}

test('components that wait for each other are refused', () => {
  assert.throws(
    () =>
      startOrder([
        { name: 'a', after: ['b'] },
        { name: 'b', after: ['a'] },
        { name: 'c', after: [] },
      ]),
    /a, b/,
  );
});

test('a busy port is named with the component and the way out', async () => {
  const server = createServer().listen(0, loopback);
  await once(server, 'listening');
  const address = server.address();
  assert.ok(typeof address === 'object' && address !== null);
  await assert.rejects(choosePorts(['loop'], { loop: address.port }), (error) => {
    assert.ok(error instanceof PlumbError);
    assert.equal(error.reason, 'PORT_IN_USE');
    assert.match(error.message, new RegExp(`port ${address.port} for loop is busy; .*--port loop=<port>`));
    return true;
  });
  server.close();
});

test('ports that nobody asked for are free and different', async () => {
  const ports = await choosePorts(['a', 'b', 'c'], {});
  assert.equal(new Set(Object.values(ports)).size, 3);
});
