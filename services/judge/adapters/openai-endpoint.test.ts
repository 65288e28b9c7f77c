import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { text } from 'node:stream/consumers';
import { EndpointError, createAdmission, retryAfter } from '@plumb/endpoint';
import { PlumbError, describeError } from '@plumb/kit/errors';
import { AnswerError } from '../domain/answer.ts';
import { ask } from '../domain/asking.ts';
import type { Completion } from '../domain/endpoint.ts';
import { judgesFileSchema } from '../domain/judge-definition.ts';
import type { EndpointDefinition } from '../domain/judge-definition.ts';
import type { Question } from '../domain/question.ts';
import { openEndpoint } from './openai-endpoint.ts';
import { z } from 'zod';

const key = 'sk-very-secret-key';
const question: Question = {
  model: 'm',
  system: 'judge',
  parts: [{ kind: 'text', text: 'caption' }],
  answer: { kind: 'json-object' },
  temperature: 0,
  seed: 1,
  maxOutputTokens: 100,
  tokenLimitParameter: 'max_completion_tokens',
  logProbabilities: false,
};
const never = new AbortController().signal;

type Reply = (request: IncomingMessage, response: ServerResponse) => void;

/** A real HTTP server that gives one reply after the other; the last one again and again. */
async function endpointThat(
  t: TestContext,
  replies: readonly Reply[],
  settings: Partial<EndpointDefinition['retries']> & { timeoutMs?: number } = {},
) {
  let calls = 0;
  const bodies: Promise<string>[] = [];
  const server = createServer((request, response) => {
    bodies.push(text(request));
    (replies[Math.min(calls, replies.length - 1)] ?? ok('{}'))(request, response);
    calls += 1;
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const address = server.address();
  assert.ok(typeof address === 'object' && address !== null);
  const { timeoutMs = 10_000, ...retries } = settings;
  const file = judgesFileSchema.parse({
    endpoints: {
      e: {
        baseUrl: `http://127.0.0.1:${address.port}/v1`,
        timeoutMs,
        retries: { firstDelayMs: 0, limit: 5, ...retries },
      },
    },
    judges: {
      j: { version: '1', endpoint: 'e', model: 'm', mode: 'binary', rubric: 'r', frames: { count: 1 } },
    },
  });
  const definition = file.endpoints['e'];
  assert.ok(definition);
  const endpoint = openEndpoint('e', definition, key);
  const admission = createAdmission('e', definition, 'JUDGE_UNAVAILABLE');
  return {
    endpoint,
    calls: () => calls,
    bodies,
    ask: (signal: AbortSignal = never, deadline?: Date) =>
      ask(
        question,
        {
          endpoint,
          retries: definition.retries,
          admit: (call, callSignal) => admission.call(call, 100, callSignal, deadline),
          reserve: () => ({ settle: () => ({ input: 0, output: 0 }) }),
          parse: parseYes,
          deadline,
        },
        signal,
      ),
  };
}

async function failureOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  return assert.fail('it should have failed');
}

function parseYes({ content }: Completion): string {
  if (content !== 'yes') throw new AnswerError('ANSWER_INVALID', 'the answer is not yes');
  return content;
}

function ok(content: string): Reply {
  return (_request, response) => {
    const choices = [{ index: 0, message: { role: 'assistant', content }, finish_reason: 'stop' }];
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ id: '1', object: 'chat.completion', model: 'served', choices }));
  };
}

function status(code: number, headers: Record<string, string> = {}): Reply {
  return (request, response) => {
    response.writeHead(code, { 'content-type': 'application/json', ...headers });
    // As hosted endpoints do: the refused key is in the message.
    const message = `Incorrect API key provided: ${request.headers.authorization ?? ''}`;
    response.end(JSON.stringify({ error: { message, code: 'some_code', type: 'x' } }));
  };
}

function refusing(code: number, error: Record<string, unknown>): Reply {
  return (_request, response) => {
    response.writeHead(code, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ error }));
  };
}

const reset: Reply = (_request, response) => {
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': 1000 });
  response.write('{"id": "1", ', () => response.destroy());
};
const hangUp: Reply = (request) => void request.socket.destroy();
const noJson: Reply = (_request, response) => {
  response.setHeader('content-type', 'application/json');
  response.end('<html>gateway</html>');
};
const stall: Reply = () => undefined;

test('an answer comes with what is known of it', async (t) => {
  const { endpoint } = await endpointThat(t, [ok('yes')]);
  const completion = await endpoint.complete(question, never);
  assert.equal(completion.content, 'yes');
  assert.equal(completion.model, 'served');
  assert.equal(completion.usage, undefined, 'what it took is not known, and not nothing');
  assert.equal(completion.tokens, undefined);
});

test('every fault that may pass is asked again', async (t) => {
  for (const [name, fault] of Object.entries({
    reset,
    hangUp,
    noJson,
    500: status(500),
    503: status(503),
    429: status(429),
    wrong: ok('no'),
  })) {
    const { ask: run, calls } = await endpointThat(t, [fault, fault, ok('yes')]);
    const asked = await run();
    assert.equal(asked.answer, 'yes', name);
    assert.equal(asked.calls, 3, name);
    assert.equal(calls(), 3, name);
  }
});

test('a stalled call ends at its own timeout and is asked again', async (t) => {
  const { ask: run } = await endpointThat(t, [stall, ok('yes')], { timeoutMs: 200 });
  assert.equal((await run()).calls, 2);
});

test('a fault that stays becomes a typed error, after as many calls as allowed', async (t) => {
  const table: readonly [Reply, string, string, number][] = [
    [status(500), 'UNAVAILABLE', 'JUDGE_UNAVAILABLE', 3],
    [hangUp, 'UNAVAILABLE', 'JUDGE_UNAVAILABLE', 3],
    [ok('no'), 'INTERNAL', 'JUDGE_ANSWER_INVALID', 3],
    [status(401), 'FAILED_PRECONDITION', 'JUDGE_MISCONFIGURED', 1],
    [status(404), 'FAILED_PRECONDITION', 'JUDGE_MISCONFIGURED', 1],
    [status(400), 'FAILED_PRECONDITION', 'JUDGE_REQUEST_REJECTED', 1],
  ];
  for (const [reply, code, reason, expected] of table) {
    const { ask: run, calls } = await endpointThat(t, [reply], { limit: 2 });
    const error = await failureOf(run());
    assert.ok(error instanceof PlumbError, String(error));
    assert.deepEqual([error.code, error.reason, calls()], [code, reason, expected]);
    assert.ok(!describeError(error).includes('secret'), 'the key is in no message');
    assert.ok(!JSON.stringify(error, Object.getOwnPropertyNames(error)).includes('secret'));
  }
});

test('an endpoint that asks for more time than the caller has is left alone, by the next callers too', async (t) => {
  const { ask: run, calls } = await endpointThat(t, [status(429, { 'retry-after': '3600' }), ok('yes')]);
  const inAMinute = new Date(Date.now() + 60_000);
  const error = await failureOf(run(never, inAMinute));
  assert.ok(error instanceof PlumbError);
  assert.equal(error.retryAfterMs, 3_600_000);
  const next = await failureOf(run(never, inAMinute));
  assert.ok(next instanceof PlumbError && next.retryable && next.reason === 'JUDGE_UNAVAILABLE');
  assert.match(next.message, /left alone for 3600 s more/);
  assert.ok((next.retryAfterMs ?? 0) > 3_500_000);
  assert.equal(calls(), 1);
});

test('a wait that is longer than our own longest is kept in full', async (t) => {
  const settings = { longestDelayMs: 20 };
  const { ask: run, calls } = await endpointThat(
    t,
    [status(429, { 'retry-after-ms': '400' }), ok('yes')],
    settings,
  );
  const start = performance.now();
  await run(never, new Date(Date.now() + 60_000));
  assert.ok(performance.now() - start >= 399, 'nothing was sent before');
  assert.equal(calls(), 2);
});

test('answers that cannot be used: each next call has another seed, and four alike are enough', async (t) => {
  const { ask: run, calls, bodies } = await endpointThat(t, [ok('no')], { limit: 9 });
  const error = await failureOf(run());
  assert.ok(error instanceof PlumbError && error.reason === 'JUDGE_ANSWER_INVALID');
  assert.equal(calls(), 4);
  const seeds = (await Promise.all(bodies)).map(
    (body) => z.object({ seed: z.int() }).parse(JSON.parse(body)).seed,
  );
  assert.deepEqual(seeds, [1, 1001, 2001, 3001]);
  // A broken connection says nothing of the seed.
  const other = await endpointThat(t, [hangUp, ok('no'), ok('yes')]);
  assert.deepEqual((await other.ask()).seed, 1001);
});

test('a parameter that an endpoint does not take is a matter of the configuration, and the error has the fix', async (t) => {
  const table: readonly [Record<string, unknown>, RegExp][] = [
    [
      { message: "Invalid parameter: 'response_format' of type 'json_schema' is not supported" },
      /structuredOutput/,
    ],
    [{ message: 'unknown', param: 'logprobs' }, /logProbabilities to false/],
    [
      { message: "use 'max_tokens' instead", param: 'max_completion_tokens' },
      /tokenLimitParameter to max_tokens/,
    ],
    [{ message: 'only 1 is supported', param: 'temperature' }, /temperature out/],
  ];
  for (const [error, fix] of table) {
    const { ask: run, calls } = await endpointThat(t, [refusing(400, error)]);
    const thrown = await failureOf(run());
    assert.ok(thrown instanceof PlumbError);
    assert.deepEqual(
      [thrown.code, thrown.reason, calls()],
      ['FAILED_PRECONDITION', 'JUDGE_MISCONFIGURED', 1],
    );
    assert.match(thrown.message, fix);
  }
  // A vendor that quotes the caption does not make its words a parameter.
  const quoting = await endpointThat(t, [
    refusing(400, { message: 'not allowed: "a seed at a high temperature"' }),
  ]);
  const rejected = await failureOf(quoting.ask());
  assert.ok(rejected instanceof PlumbError && rejected.reason === 'JUDGE_REQUEST_REJECTED');
});

test('Retry-After is waited for', async (t) => {
  const { ask: run } = await endpointThat(t, [status(429, { 'retry-after-ms': '150' }), ok('yes')]);
  const start = performance.now();
  await run();
  assert.ok(performance.now() - start >= 149);
});

test('the caller ends the call in flight, and no call starts afterwards', async (t) => {
  const controller = new AbortController();
  const closed = Promise.withResolvers<undefined>();
  const { ask: run, calls } = await endpointThat(t, [
    (_request, response) => {
      response.once('close', () => closed.resolve(undefined));
      controller.abort(new Error('deadline'));
    },
  ]);
  await assert.rejects(run(controller.signal), /deadline/);
  await closed.promise;
  assert.equal(calls(), 1);
  await assert.rejects(run(controller.signal), /deadline/);
  assert.equal(calls(), 1);
});

test('Retry-After is read in all its forms', () => {
  const now = Date.parse('2026-01-01T00:00:00Z');
  const read = (headers: Record<string, string>): number | undefined => retryAfter(new Headers(headers), now);
  assert.equal(read({ 'retry-after': '2' }), 2000);
  assert.equal(read({ 'retry-after': 'Thu, 01 Jan 2026 00:00:05 GMT' }), 5000);
  assert.equal(read({ 'retry-after': 'Wed, 31 Dec 2025 00:00:00 GMT' }), 0);
  assert.equal(read({ 'retry-after-ms': '30', 'retry-after': '9' }), 30);
  assert.equal(read({ 'retry-after': 'soon' }), undefined);
  assert.equal(read({ 'retry-after': '-1' }), undefined);
  assert.equal(read({}), undefined);
});

const limits = {
  requestsPerMinute: undefined,
  tokensPerMinute: undefined,
  breaker: { failures: 3, firstRestMs: 1000, longestRestMs: 4000 },
  retries: { limit: 3, firstDelayMs: 0, longestDelayMs: 50 },
};

test('a full queue pushes back with a time to retry', async () => {
  const admission = createAdmission('e', { ...limits, concurrency: 1, queue: 1 }, 'JUDGE_UNAVAILABLE');
  const gate = Promise.withResolvers<undefined>();
  const running = [admission.admit(() => gate.promise), admission.admit(() => gate.promise)];
  const error = await failureOf(admission.admit(() => gate.promise));
  assert.ok(error instanceof PlumbError);
  assert.equal(error.code, 'RESOURCE_EXHAUSTED');
  assert.ok((error.retryAfterMs ?? 0) > 0);
  gate.resolve(undefined);
  await Promise.all(running);
  assert.equal(admission.occupancy().admitted, 0);
});

test('429 takes places away, once for all calls that were in flight together, and answers give them back', async () => {
  const admission = createAdmission('e', { ...limits, concurrency: 10, queue: 100 }, 'JUDGE_UNAVAILABLE');
  const refuse = (): Promise<never> =>
    Promise.reject(new EndpointError('rate-limited', 'HTTP 429', { status: 429, retryAfterMs: 5 }));
  const gate = Promise.withResolvers<undefined>();
  const together = Array.from({ length: 10 }, () =>
    admission.call(() => gate.promise.then(refuse), 1, never),
  );
  gate.resolve(undefined);
  await Promise.allSettled(together);
  assert.equal(admission.occupancy().concurrency, 8);
  for (let call = 0; call < 8; call += 1) await admission.call(() => Promise.resolve(), 1, never);
  assert.equal(admission.occupancy().concurrency, 9);
  for (let round = 0; round < 20; round += 1) await admission.call(refuse, 1, never).catch(() => undefined);
  assert.equal(admission.occupancy().concurrency, 1, 'and never the last one');
});

test('an endpoint that is down is left alone until its rest is over', async (t) => {
  t.mock.timers.enable({ apis: ['Date'], now: 1_000_000 });
  const states: string[] = [];
  const admission = createAdmission(
    'e',
    { ...limits, concurrency: 4, queue: 4 },
    'JUDGE_UNAVAILABLE',
    (state) => states.push(state),
  );
  let calls = 0;
  const failing = (): Promise<never> => {
    calls += 1;
    return Promise.reject(new EndpointError('connection', 'refused'));
  };
  for (let call = 0; call < 6; call += 1) await admission.call(failing, 1, never).catch(() => undefined);
  assert.deepEqual([calls, admission.occupancy().state], [3, 'down']);
  const error = await failureOf(admission.call(failing, 1, never));
  assert.ok(error instanceof PlumbError && error.reason === 'JUDGE_UNAVAILABLE' && error.retryable);
  t.mock.timers.setTime(1_100_000);
  assert.equal(await admission.call(() => Promise.resolve('back'), 1, never), 'back');
  assert.equal(admission.occupancy().state, 'serving');
  assert.deepEqual(states, ['down', 'recovering', 'serving']);
});

test('an EndpointError names its fault', () => {
  assert.equal(new EndpointError('server', 'HTTP 500', { status: 500 }).fault, 'server');
});
