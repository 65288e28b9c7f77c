import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer as createTcpServer } from 'node:net';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';
import type { TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { Client, credentials } from '@grpc/grpc-js';
import { LabelService } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import { invalidArgument, PlumbError, unavailable, unexpectedErrorMessage } from '../errors.ts';
import { addService, createClient, createServer } from '../rpc.ts';
import type { CallContext, ClientOptions, Implementation, RpcServer, ServerOptions } from '../rpc.ts';
import { startTelemetry } from '../telemetry.ts';
import type { SpanRecord } from '../telemetry.ts';
import { EchoService } from '../testing/echo-service.ts';
import { isCollected } from '../testing/garbage.ts';

type Echo = Implementation<typeof EchoService>;

const echo: Echo = {
  say: ({ value }) => ({ value }),
  look: ({ value }) => ({ value }),
  async *repeat({ value }) {
    for (let i = 0; i < 3; i++) yield { value: `${value}${i}` };
  },
  async join(requests) {
    let value = '';
    for await (const request of requests) value += request.value;
    return { value };
  },
  async *chat(requests) {
    for await (const { value } of requests) yield { value: value.toUpperCase() };
  },
};

async function serve(
  t: TestContext,
  implementation: Partial<Echo>,
  serverOptions: ServerOptions = {},
  clientOptions: ClientOptions = {},
) {
  const server = createServer(serverOptions);
  addService(server, EchoService, { ...echo, ...implementation });
  const { address, port } = await server.listen();
  const client = createClient(EchoService, address, clientOptions);
  t.after(async () => {
    client.close();
    await server.stop({ deadlineMs: 0 });
  });
  return { server, client, address, port };
}

async function collect(answers: AsyncIterable<{ value: string }>): Promise<string[]> {
  const values: string[] = [];
  for await (const { value } of answers) values.push(value);
  return values;
}

function isError(code: string, reason?: string, message?: RegExp) {
  return (error: unknown): true => {
    assert.ok(error instanceof PlumbError, `not a PlumbError: ${String(error)}`);
    assert.equal(error.code, code, error.message);
    if (reason !== undefined) assert.equal(error.reason, reason);
    if (message !== undefined) assert.match(error.message, message);
    return true;
  };
}

const health = async (address: string, service: string): Promise<string> => {
  const { service: definition } = await import('grpc-health-check');
  const check = definition['Check'] ?? assert.fail('no Check method');
  const client = new Client(address, credentials.createInsecure());
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  client.makeUnaryRequest(
    check.path,
    (request: object) => check.requestSerialize(request),
    (bytes: Buffer) => check.responseDeserialize(bytes) as unknown,
    { service },
    (error, value) => {
      if (error === null) resolve(value);
      else reject(error);
    },
  );
  const answer = await promise.finally(() => {
    client.close();
  });
  assert.ok(typeof answer === 'object' && answer !== null && 'status' in answer);
  return String(answer.status);
};

const restart = async (port: number, say: Partial<Echo>): Promise<RpcServer> => {
  const server = createServer({ port });
  addService(server, EchoService, { ...echo, ...say });
  await server.listen();
  return server;
};

const unimplemented = (): never => {
  throw new PlumbError({
    code: 'UNIMPLEMENTED',
    reason: 'METHOD_UNIMPLEMENTED',
    message: 'not in this test',
  });
};

async function* brokenRequests() {
  yield { value: 'a' };
  throw invalidArgument('clip', 'cannot be read');
}

describe('all four kinds of method', () => {
  test('answer over the wire', async (t) => {
    const { client } = await serve(t, {});
    assert.equal((await client.say({ value: 'hello' })).value, 'hello');
    assert.deepEqual(await collect(client.repeat({ value: 'x' })), ['x0', 'x1', 'x2']);
    assert.equal((await client.join([{ value: 'a' }, { value: 'b' }])).value, 'ab');
    assert.deepEqual(await collect(client.chat([{ value: 'a' }, { value: 'b' }])), ['A', 'B']);
  });

  test('metadata, deadline and peer reach the handler', async (t) => {
    const seen: CallContext[] = [];
    const { client } = await serve(t, {
      say: (request, call) => {
        seen.push(call);
        return request;
      },
    });
    await client.say({ value: '' }, { metadata: { 'plumb-run': 'r1' }, deadlineMs: 5000 });
    const [call] = seen;
    assert.ok(call !== undefined);
    assert.deepEqual(call.metadata.get('plumb-run'), ['r1']);
    assert.ok(call.deadline !== undefined && call.deadline.getTime() > Date.now());
    assert.equal(call.method, 'plumb.kit.testing.EchoService/Say');
    assert.match(call.peer, /^127\.0\.0\.1:/);
  });
});

describe('the wrapper', () => {
  test('a call that was answered is not cancelled afterwards', async (t) => {
    const signals: AbortSignal[] = [];
    const { client } = await serve(t, {
      say: (request, { signal }) => {
        signals.push(signal);
        return request;
      },
      async *repeat(request, { signal }) {
        signals.push(signal);
        yield request;
      },
    });
    for (let call = 0; call < 3; call++) {
      await client.say({ value: '' });
      await collect(client.repeat({ value: '' }));
    }
    assert.deepEqual(
      signals.map(({ aborted }) => aborted),
      signals.map(() => false),
    );
  });

  test('what was streamed is let go of while the stream goes on', async (t) => {
    const references: WeakRef<object>[] = [];
    const end = Promise.withResolvers<undefined>();
    t.after(() => {
      end.resolve(undefined);
    });
    const { client } = await serve(t, {
      async *repeat({ value }) {
        for (let index = 0; index < 3; index++) {
          const answer = { value: `${value}${index}` };
          references.push(new WeakRef(answer));
          yield answer;
        }
        await end.promise;
      },
    });
    const answers = collect(client.repeat({ value: 'x' }));
    while (references.length < 3) await delay(1);
    assert.ok(references[0] !== undefined && (await isCollected(references[0])));
    end.resolve(undefined);
    assert.equal((await answers).length, 3);
  });

  const thrown = invalidArgument('value', "is ''; give some text");
  const cases: [name: string, implementation: Partial<Echo>][] = [
    [
      'a synchronous throw',
      {
        say: () => {
          throw thrown;
        },
      },
    ],
    // oxlint-disable-next-line typescript/require-await -- a rejected promise is the case
    ['a rejected promise', { say: async () => Promise.reject(thrown) }],
  ];
  for (const [name, implementation] of cases) {
    test(`${name} arrives with its details`, async (t) => {
      const { client } = await serve(t, implementation);
      await assert.rejects(client.say({ value: '' }), (error) => {
        isError('INVALID_ARGUMENT', 'INVALID_FIELD')(error);
        assert.ok(error instanceof PlumbError);
        assert.deepEqual(error.fieldViolations, [{ field: 'value', description: "is ''; give some text" }]);
        return true;
      });
    });
  }

  test('an error of nobody leaves as the fixed message, without its text or numeric code', async (t) => {
    const { client } = await serve(t, {
      say: () => {
        throw Object.assign(new Error('connect to db at 10.0.0.7:5432'), { code: 5 });
      },
    });
    await assert.rejects(client.say({ value: '' }), (error) => {
      isError('INTERNAL', 'UNEXPECTED')(error);
      assert.equal(error instanceof PlumbError && error.message, unexpectedErrorMessage);
      return true;
    });
  });

  test('a generator that throws in the middle: the answers before it, then the error', async (t) => {
    const { client } = await serve(t, {
      async *repeat({ value }) {
        yield { value };
        throw unavailable('the model is loading', { retryAfterMs: 250 });
      },
    });
    const values: string[] = [];
    await assert.rejects(
      async () => {
        for await (const { value } of client.repeat({ value: 'a' })) values.push(value);
      },
      (error) => {
        isError('UNAVAILABLE', 'CONNECTION_FAILED', /loading/)(error);
        assert.equal(error instanceof PlumbError && error.retryAfterMs, 250);
        return true;
      },
    );
    assert.deepEqual(values, ['a']);
  });

  test('a generator function that throws before its first answer, and one that is none at all', async (t) => {
    const { client } = await serve(t, {
      repeat: () => {
        throw thrown;
      },
      async *chat() {
        yield { value: 'first' };
        throw thrown;
      },
    });
    await assert.rejects(collect(client.repeat({ value: '' })), isError('INVALID_ARGUMENT'));
    await assert.rejects(collect(client.chat([{ value: 'a' }])), isError('INVALID_ARGUMENT'));
  });

  test('client streaming: a throw in the middle of the requests', async (t) => {
    const { client } = await serve(t, {
      async join(requests) {
        for await (const { value } of requests) if (value === 'bad') throw thrown;
        return { value: 'never' };
      },
    });
    await assert.rejects(
      client.join([{ value: 'good' }, { value: 'bad' }, { value: 'x' }]),
      isError('INVALID_ARGUMENT'),
    );
  });

  test("bytes that are no message are the caller's fault", async (t) => {
    const { address } = await serve(t, {});
    const raw = new Client(address, credentials.createInsecure());
    t.after(() => {
      raw.close();
    });
    const { promise, resolve } = Promise.withResolvers<number | undefined>();
    raw.makeUnaryRequest(
      '/plumb.kit.testing.EchoService/Say',
      (bytes: Buffer) => bytes,
      (bytes: Buffer) => bytes,
      Buffer.from([0xff, 0xff, 0xff]),
      (error) => {
        resolve(error?.code);
      },
    );
    assert.equal(await promise, 3);
  });
});

describe('cancellation, deadlines and back pressure', () => {
  test('leaving the loop aborts the handler', async (t) => {
    const { promise: stopped, resolve } = Promise.withResolvers<unknown>();
    const { client } = await serve(t, {
      async *repeat(_request, { signal }) {
        signal.addEventListener('abort', () => {
          resolve(signal.reason);
        });
        for (let i = 0; ; i++) {
          yield { value: String(i) };
          await delay(1, undefined, { signal });
        }
      },
    });
    for await (const { value } of client.repeat({ value: '' })) if (value === '3') break;
    isError('CANCELLED')(await stopped);
  });

  test('an AbortSignal of the caller ends a unary call with its reason', async (t) => {
    const { client } = await serve(t, {
      say: async (request, { signal }) => {
        await once(signal, 'abort');
        return request;
      },
    });
    const abort = new AbortController();
    const call = client.say({ value: '' }, { signal: abort.signal });
    abort.abort(unavailable('the service is stopping'));
    await assert.rejects(call, isError('UNAVAILABLE', undefined, /stopping/));
    await assert.rejects(client.say({ value: '' }, { signal: AbortSignal.abort() }), isError('CANCELLED'));
  });

  test('a deadline holds on both sides', async (t) => {
    const { promise: reason, resolve } = Promise.withResolvers<unknown>();
    const { client } = await serve(t, {
      say: async (request, { signal }) => {
        await once(signal, 'abort');
        resolve(signal.reason);
        return request;
      },
    });
    await assert.rejects(client.say({ value: '' }, { deadlineMs: 100 }), isError('DEADLINE_EXCEEDED'));
    assert.ok((await reason) instanceof PlumbError);
  });

  test('a slow reader slows the generator down', async (t) => {
    let made = 0;
    const text = 'x'.repeat(64 * 1024);
    const { client } = await serve(t, {
      async *repeat() {
        for (; made < 2000; made++) yield { value: text };
      },
    });
    let read = 0;
    for await (const _ of client.repeat({ value: '' })) {
      if (++read === 5) break;
      await delay(10);
    }
    assert.ok(made < 200, `${made} of 2,000 answers were made for 5 that were read`);
  });

  test('requests that throw cancel the call and surface as they are', async (t) => {
    const { client } = await serve(t, {});
    await assert.rejects(client.join(brokenRequests()), isError('INVALID_ARGUMENT', undefined, /clip/));
    await assert.rejects(
      collect(client.chat(brokenRequests())),
      isError('INVALID_ARGUMENT', undefined, /clip/),
    );
  });
});

describe('sizes', () => {
  test('a request over the limit is refused with the fix', async (t) => {
    const { client } = await serve(t, {}, { maxReceiveBytes: 1000 });
    await assert.rejects(
      client.say({ value: 'x'.repeat(2000) }),
      isError('OUT_OF_RANGE', 'MESSAGE_TOO_LARGE'),
    );
  });

  test('six mebibytes pass by default', async (t) => {
    const { client } = await serve(t, {});
    const value = 'x'.repeat(6 * 2 ** 20);
    assert.equal((await client.say({ value })).value.length, value.length);
  });
});

describe('the life of a server', () => {
  test('plain text stays on loopback unless told', () => {
    assert.throws(
      () => createServer({ host: '0.0.0.0' }),
      isError('FAILED_PRECONDITION', 'ADDRESS_NOT_LOOPBACK'),
    );
    assert.throws(
      () => createServer({ host: '0.0.0.0', insecurePlaintext: true }),
      isError('FAILED_PRECONDITION', 'ADDRESS_NOT_LOOPBACK', /PLUMB_AUTH_CALLERS_FILE/),
    );
    createServer({ host: '0.0.0.0', insecurePlaintext: true, insecureNoAuth: true });
  });

  test('a busy port is one error with host, port and fix', async (t) => {
    const blocker = createTcpServer().listen(0, '127.0.0.1');
    await once(blocker, 'listening');
    t.after(() => blocker.close());
    const bound = blocker.address();
    assert.ok(bound !== null && typeof bound === 'object');
    const server = createServer({ port: bound.port });
    await assert.rejects(
      server.listen(),
      isError(
        'FAILED_PRECONDITION',
        'PORT_IN_USE',
        new RegExp(`port ${bound.port} on 127.0.0.1 is in use.*PLUMB_LISTEN`),
      ),
    );
  });

  test('health follows the signal, per service and as a whole', async (t) => {
    const stopping = new AbortController();
    const { address } = await serve(t, {}, { signal: stopping.signal });
    assert.equal(await health(address, ''), 'SERVING');
    assert.equal(await health(address, 'plumb.kit.testing.EchoService'), 'SERVING');
    stopping.abort();
    assert.equal(await health(address, ''), 'NOT_SERVING');
    assert.equal(await health(address, 'plumb.kit.testing.EchoService'), 'NOT_SERVING');
  });

  test('stop lets a running call finish', async (t) => {
    const { promise: entered, resolve: enter } = Promise.withResolvers<undefined>();
    const { promise: gate, resolve: open } = Promise.withResolvers<undefined>();
    const { client, server } = await serve(t, {
      say: async (request) => {
        enter(undefined);
        await gate;
        return request;
      },
    });
    const call = client.say({ value: 'late' });
    await entered;
    const stopped = server.stop({ deadlineMs: 10_000 });
    open(undefined);
    assert.equal((await call).value, 'late');
    await stopped;
  });

  test('stop cuts an open stream off when its deadline passes', async (t) => {
    const { client, server } = await serve(t, {
      async *repeat(_request, { signal }) {
        yield { value: 'first' };
        await once(signal, 'abort');
      },
    });
    const stream = client.repeat({ value: '' })[Symbol.asyncIterator]();
    assert.equal((await stream.next()).value?.value, 'first');
    await Promise.all([
      server.stop({ deadlineMs: 50 }),
      assert.rejects(stream.next(), isError('UNAVAILABLE', 'SHUTTING_DOWN')),
    ]);
  });
});

describe('a server that is not there', () => {
  test('fails at once with UNAVAILABLE, and waits when asked to', async (t) => {
    const { client, server, port } = await serve(t, {}, {}, { retry: 'none' });
    await server.stop({ deadlineMs: 0 });
    await assert.rejects(client.say({ value: '' }), isError('UNAVAILABLE'));
    await assert.rejects(client.ready({ deadlineMs: 50 }), isError('UNAVAILABLE'));
    const waiting = client.say({ value: 'back' }, { waitForReady: true });
    const second = await restart(port, {});
    t.after(() => second.stop({ deadlineMs: 0 }));
    assert.equal((await waiting).value, 'back');
  });

  test('only idempotent methods are sent again', async (t) => {
    let calls = 0;
    const flaky: Echo['say'] = (request) => {
      calls += 1;
      if (calls < 3) throw unavailable('warming up');
      return request;
    };
    const { client } = await serve(t, { say: flaky, look: flaky });
    assert.equal((await client.look({ value: 'x' })).value, 'x');
    assert.equal(calls, 3);
    calls = 0;
    await assert.rejects(client.say({ value: 'x' }), isError('UNAVAILABLE', undefined, /warming up/));
    assert.equal(calls, 1);
  });
});

test('an error in the middle of a stream of requests reaches the caller, whatever is still to be read', async (t) => {
  const { client } = await serve(t, {
    async *chat(requests) {
      for await (const { value } of requests) {
        if (value === 'bad') throw invalidArgument('value', "is 'bad'");
        yield { value };
      }
    },
    async join(requests) {
      for await (const { value } of requests) if (value === 'bad') throw invalidArgument('value', "is 'bad'");
      return {};
    },
  });
  const values = ['a', 'bad', ...Array.from({ length: 100 }, () => 'more')].map((value) => ({ value }));
  await assert.rejects(collect(client.chat(values)), isError('INVALID_ARGUMENT'));
  await assert.rejects(client.join(values), isError('INVALID_ARGUMENT'));
});

test('an old connection is replaced; no call fails and a stream under way ends well', async (t) => {
  const peers = new Set<string>();
  const gate = Promise.withResolvers<undefined>();
  const { client } = await serve(
    t,
    {
      say: ({ value }, { peer }) => {
        peers.add(peer);
        return { value };
      },
      async *repeat({ value }) {
        yield { value };
        await gate.promise;
        yield { value };
      },
    },
    { maxConnectionAgeMs: 100 },
    { retry: 'none' },
  );
  const stream = collect(client.repeat({ value: 'x' }));
  // Each connection has a port of its own.
  while (peers.size < 3) await client.say({ value: 'x' });
  gate.resolve(undefined);
  assert.deepEqual(await stream, ['x', 'x']);
});

test('reflection lists the services, and its files have type names that anybody can resolve', async (t) => {
  const server = createServer({ reflection: true });
  addService(server, LabelService, {
    createLabel: unimplemented,
    listLabels: unimplemented,
    createLabelSession: unimplemented,
    listLabelSessions: unimplemented,
    createRaterLink: unimplemented,
    getRatingQueue: unimplemented,
    rate: unimplemented,
    getRaterAgreement: unimplemented,
  });
  const { address } = await server.listen();
  const client = new Client(address, credentials.createInsecure());
  t.after(async () => {
    client.close();
    await server.stop({ deadlineMs: 0 });
  });
  const call = client.makeBidiStreamRequest(
    '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
    (bytes: Buffer) => bytes,
    (bytes: Buffer) => bytes,
  );
  const ask = async (request: Buffer): Promise<string> => {
    call.write(request);
    const [answer]: unknown[] = await once(call, 'data');
    assert.ok(answer instanceof Buffer);
    return answer.toString('latin1');
  };
  // field 7, list_services; field 4, file_containing_symbol
  assert.match(await ask(Buffer.from([0x3a, 0x00])), /plumb\.loop\.v1\.LabelService/);
  const symbol = Buffer.from('plumb.loop.v1.LabelService');
  const file = await ask(Buffer.concat([Buffer.from([0x22, symbol.length]), symbol]));
  assert.match(file, /\.plumb\.loop\.v1\.CreateLabelRequest/);
  call.end();
});

test('client and server span share one trace; the file has both', async (t) => {
  const directory = mkdtempSync(path.join(tmpdir(), 'plumb-kit-'));
  t.after(() => {
    rmSync(directory, { recursive: true });
  });
  const telemetry = await startTelemetry({ service: 'kit-test', version: '0', spanDirectory: directory });
  const { client } = await serve(t, {
    say: () => {
      throw unavailable('no');
    },
  });
  await client.look({ value: '' });
  await assert.rejects(client.say({ value: '' }));
  const metrics = await (await fetch(`http://${telemetry.metricsAddress}/metrics`)).text();
  assert.match(metrics, /rpc_server_call_duration_count\{[^}]*rpc_response_status_code="UNAVAILABLE"/);
  await telemetry.shutdown();
  const spans = readFileSync(path.join(directory, `kit-test-${hostname()}-${process.pid}.jsonl`), 'utf8')
    .trimEnd()
    .split('\n')
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the lines were written from this type
    .map((line) => JSON.parse(line) as SpanRecord);
  const look = spans.filter(({ name }) => name.endsWith('/Look'));
  const server = look.find(({ kind }) => kind === 'server');
  const caller = look.find(({ kind }) => kind === 'client');
  assert.equal(server?.parentSpanId, caller?.spanId);
  assert.equal(server?.traceId, caller?.traceId);
  const failed = spans.find(({ kind, name }) => kind === 'server' && name.endsWith('/Say'));
  assert.equal(failed?.status, 'error');
  assert.equal(failed?.attributes['error.type'], 'UNAVAILABLE');
  assert.equal(failed?.attributes['plumb.error.reason'], 'CONNECTION_FAILED');
});
