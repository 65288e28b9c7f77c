import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { describe, test } from 'node:test';
import type { TestContext } from 'node:test';
import { createClient } from '../rpc.ts';
import { StopSequence } from '../lifecycle.ts';
import type { StopResult } from '../lifecycle.ts';
import { EchoService } from '../testing/echo-service.ts';

const example = fileURLToPath(new URL('../testing/example-service.ts', import.meta.url));

interface Running {
  readonly child: ChildProcessWithoutNullStreams;
  readonly exit: Promise<{ code: number | null; stderr: string }>;
  readonly firstLine: Promise<string>;
}

function run(t: TestContext, env: Record<string, string> = {}): Running {
  const child = spawn(process.execPath, [example], {
    env: { ...process.env, PLUMB_LOG_LEVEL: 'debug', ...env },
  });
  t.after(() => child.kill('SIGKILL'));
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const exit = (async () => {
    await once(child, 'close');
    return { code: child.exitCode, stderr };
  })();
  const firstLine = (async () => {
    for await (const line of createInterface({ input: child.stdout })) return line;
    return '';
  })();
  return { child, exit, firstLine };
}

const ready = /^\{"ready":true,"address":"127\.0\.0\.1:\d+","metrics":"127\.0\.0\.1:\d+"\}$/;

describe('a service process', { concurrency: 2 }, () => {
  test('prints one ready line, serves, and ends with 0 on SIGTERM', async (t) => {
    const { child, exit, firstLine } = run(t);
    const line = await firstLine;
    assert.match(line, ready);
    const addresses: unknown = JSON.parse(line);
    assert.ok(typeof addresses === 'object' && addresses !== null && 'address' in addresses);
    const client = createClient(EchoService, String(addresses.address));
    assert.equal((await client.say({ value: 'hello' })).value, 'hello');
    client.close();
    child.kill('SIGTERM');
    const { code, stderr } = await exit;
    assert.equal(code, 0, stderr);
    const steps = [...stderr.matchAll(/"step":"(\w+)"/g)].map(([, step]) => step);
    assert.deepEqual(steps, ['server', 'telemetry']);
  });

  test('a bad setting is one line on standard error and exit code 2', async (t) => {
    const { exit } = run(t, { PLUMB_LISTEN: 'nonsense' });
    const { code, stderr } = await exit;
    assert.equal(code, 2);
    const lines = stderr
      .trimEnd()
      .split('\n')
      .filter((line) => !line.startsWith('{'));
    assert.equal(lines.length, 1);
    assert.match(lines[0] ?? '', /^example: PLUMB_LISTEN is 'nonsense' .*set it to host:port/);
  });

  test('a busy port too, and what was started before is stopped', async (t) => {
    const blocker = createServer().listen(0, '127.0.0.1');
    await once(blocker, 'listening');
    t.after(() => blocker.close());
    const bound = blocker.address();
    assert.ok(bound !== null && typeof bound === 'object');
    const { exit } = run(t, { PLUMB_LISTEN: `127.0.0.1:${bound.port}` });
    const { code, stderr } = await exit;
    assert.equal(code, 2);
    assert.match(stderr, new RegExp(`example: port ${bound.port} on 127.0.0.1 is in use`));
    assert.match(stderr, /"step":"telemetry"/);
  });

  test('a second signal ends it at once', async (t) => {
    const { child, exit, firstLine } = run(t, { EXAMPLE_MODE: 'hang' });
    await firstLine;
    child.kill('SIGINT');
    // The system merges signals that are not yet taken: the second is sent once the first has been acted on.
    for (let logged = ''; !logged.includes('"stopping"');) {
      const [chunk]: unknown[] = await once(child.stderr, 'data');
      logged += String(chunk);
    }
    child.kill('SIGINT');
    const { code, stderr } = await exit;
    assert.equal(code, 1);
    assert.match(stderr, /told twice/);
  });

  test('a part that hangs does not keep the process beyond the deadline', async (t) => {
    const { child, exit, firstLine } = run(t, { EXAMPLE_MODE: 'hang' });
    await firstLine;
    child.kill('SIGTERM');
    const { code, stderr } = await exit;
    assert.equal(code, 1);
    assert.match(stderr, /stopping took too long/);
  });

  test('a part that is late is named, and the others are stopped', async (t) => {
    const { child, exit, firstLine } = run(t, { EXAMPLE_MODE: 'late' });
    await firstLine;
    child.kill('SIGTERM');
    const { code, stderr } = await exit;
    assert.equal(code, 1);
    assert.match(stderr, /'late' did not stop within 50 ms/);
    assert.match(stderr, /"step":"telemetry"/);
  });

  for (const [mode, text] of [
    ['throw', 'nobody catches me'],
    ['reject', 'nobody awaits me'],
    ['fail', 'the engine is gone'],
  ] as const) {
    test(`${mode}: logged, exit code 1`, async (t) => {
      const { exit } = run(t, { EXAMPLE_MODE: mode });
      const { code, stderr } = await exit;
      assert.equal(code, 1);
      assert.match(stderr, new RegExp(text));
    });
  }

  test('stops when its standard input closes, if it was told to watch', async (t) => {
    const { child, exit, firstLine } = run(t, { PLUMB_PARENT_PIPE: '1' });
    await firstLine;
    child.stdin.end();
    const { code, stderr } = await exit;
    assert.equal(code, 0, stderr);
    assert.match(stderr, /the parent is gone/);
  });
});

test('steps run in reverse order; one that fails does not keep the others', async () => {
  const order: string[] = [];
  const sequence = new StopSequence();
  sequence.add('first', () => void order.push('first'), 100);
  sequence.add(
    'broken',
    () => {
      throw new Error('cannot stop');
    },
    100,
  );
  sequence.add('last', async () => void order.push('last'), 100);
  const results: StopResult[] = [];
  assert.equal(await sequence.run((result) => void results.push(result)), false);
  assert.deepEqual(order, ['last', 'first']);
  assert.deepEqual(
    results.map(({ name, error }) => [name, error?.code]),
    [
      ['last', undefined],
      ['broken', 'INTERNAL'],
      ['first', undefined],
    ],
  );
});
