import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, beforeEach, test } from 'node:test';
import { createAdmission, createSpending, emptyAccount, endpointSchema } from '@plumb/endpoint';
import type { AccountRecord } from '@plumb/endpoint';
import type { PlumbError } from '@plumb/kit/errors';
import { encodePreview } from '@plumb/media';
import type { Clip } from '@plumb/media';
import { parseRemoteModel } from './remote-model.ts';
import { openRemotePipeline } from './remote-pipeline.ts';
import type { RemoteEndpoint } from './remote-pipeline.ts';

const clip: Clip = {
  frames: 3,
  height: 8,
  width: 8,
  fps: 10,
  data: Uint8Array.from({ length: 3 * 8 * 8 * 3 }, (_, i) => 80 * Math.floor(i / 192) + 20),
};
const movie = await encodePreview(clip, { scale: 1, format: 'webp' });

/** An endpoint of OpenAI's video API: a clip is ready at the third look. */
interface Seen {
  readonly method: string;
  readonly path: string;
  readonly key: string | undefined;
  readonly authorization: string | undefined;
  readonly body: string;
}
let seen: Seen[] = [];
let looks = new Map<string, number>();
/** Answers that come before the usual ones. */
let faults: ((response: ServerResponse) => void)[] = [];
let outcome: 'completed' | 'failed' = 'completed';

const server = createServer((request: IncomingMessage, response: ServerResponse) => {
  void (async () => {
    let body = '';
    for await (const part of request) body += String(part);
    const path = request.url ?? '';
    seen.push({
      method: request.method ?? '',
      path,
      key: request.headers['idempotency-key'] as string | undefined,
      authorization: request.headers.authorization,
      body,
    });
    const fault = faults.shift();
    if (fault !== undefined) {
      fault(response);
      return;
    }
    const json = (value: unknown): void => {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify(value));
    };
    const id = /^\/v1\/videos\/(video_\d+)/.exec(path)?.[1] ?? '';
    if (path === '/v1/videos')
      json({ id: `video_${looks.size}`, status: 'queued', ...(looks.set(`video_${looks.size}`, 0), {}) });
    else if (path.endsWith('/content')) {
      response.setHeader('content-type', 'image/webp');
      response.end(movie);
    } else {
      const look = (looks.get(id) ?? 0) + 1;
      looks.set(id, look);
      if (look < 3) json({ id, status: 'in_progress', progress: 30 * look });
      else
        json({
          id,
          status: outcome,
          error: outcome === 'failed' ? { code: 'moderation_blocked', message: 'secret' } : null,
        });
    }
  })();
});
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
after(() => server.close());
const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;

beforeEach(() => {
  seen = [];
  looks = new Map();
  faults = [];
  outcome = 'completed';
});

const definition = {
  format: 1,
  name: 'vendor',
  endpoint: 'local',
  model: 'video-1',
  width: 8,
  height: 8,
  frames: 3,
  fps: 10,
  seconds: '4',
  costPerClip: 0.5,
  pollMs: 1,
};

function open(settings: object = {}, budget: { cost?: number } = {}, changes: object = {}) {
  const parsed = endpointSchema.parse({
    baseUrl,
    retries: { limit: 3, firstDelayMs: 1, longestDelayMs: 20 },
    ...settings,
  });
  const accounts = new Map<string, AccountRecord>();
  const spending = createSpending(
    {
      get: (runId) => Promise.resolve(accounts.get(runId)),
      update(runId, change) {
        const next = change(accounts.get(runId) ?? emptyAccount(runId));
        accounts.set(runId, next);
        return Promise.resolve(next);
      },
    },
    { name: 'generation', fix: 'raise it', reason: 'BUDGET_EXHAUSTED' },
    budget,
    (error) => assert.fail(String(error)),
  );
  const counted: string[] = [];
  const spent: number[] = [];
  const endpoint: RemoteEndpoint = {
    name: 'local',
    settings: parsed,
    apiKey: 'key-1',
    admission: createAdmission('local', parsed, 'REMOTE_ERROR'),
    spending,
    events: {
      fault: (_, { fault }) => void counted.push(fault),
      spent: (_, __, cost) => void spent.push(cost),
    },
  };
  const model = parseRemoteModel(Buffer.from(JSON.stringify({ ...definition, ...changes })), 'model.json');
  return { pipeline: openRemotePipeline(model, endpoint), spending, counted, spent };
}

const sampler = { steps: 1, guidance: 1, shift: 1 };
const one = { caption: 'a ball', seed: 1n, account: 'run' };

/** The error in the place of a clip. */
function errorOf(result: unknown): PlumbError {
  assert.ok(result instanceof Error, 'it is an error');
  return result as PlumbError;
}

test('a clip is created, looked at until it is ready, downloaded and paid', async () => {
  const { pipeline, spending, counted, spent } = open();
  const [made] = await pipeline.sampleEach([one], sampler);
  assert.ok(made !== undefined && 'data' in made);
  assert.deepEqual([made.frames, made.height, made.width, made.fps], [3, 8, 8, 10]);
  assert.deepEqual(
    seen.map(({ method, path }) => `${method} ${path}`),
    [
      'POST /v1/videos',
      ...Array.from({ length: 3 }, () => 'GET /v1/videos/video_0'),
      'GET /v1/videos/video_0/content',
    ],
  );
  assert.ok(seen.every(({ authorization }) => authorization === 'Bearer key-1'));
  const [order] = seen;
  for (const part of ['a ball', 'video-1', '8x8']) assert.ok(order?.body.includes(part), `${part} is sent`);
  await spending.flush();
  assert.equal((await spending.spend('run')).cost, 0.5);
  assert.deepEqual([counted, spent], [[], [0.5]]);
});

test('asking again sends the same idempotency key, another seed another one', async () => {
  const { pipeline } = open();
  await pipeline.sampleEach([one], sampler);
  await pipeline.sampleEach([one, { ...one, seed: 2n }], sampler);
  const keys = seen.filter(({ method }) => method === 'POST').map(({ key }) => key);
  assert.equal(keys[0], keys[1]);
  assert.notEqual(keys[1], keys[2]);
  assert.match(keys[0] ?? '', /^[0-9a-f]{64}$/);
});

test('429, 5xx, broken connections and nonsense are tried again', async () => {
  const { pipeline, counted, spent } = open();
  faults = [
    (response) => response.writeHead(429, { 'retry-after-ms': '2' }).end('{}'),
    (response) => response.writeHead(503).end('down'),
    (response) => response.destroy(),
  ];
  const [made] = await pipeline.sampleEach([one], sampler);
  assert.ok(made !== undefined && 'data' in made);
  faults = [
    (response) => response.writeHead(200, { 'content-type': 'application/json' }).end('{"id":"../x"}'),
  ];
  const [again] = await pipeline.sampleEach([one], sampler);
  assert.ok(again !== undefined && 'data' in again);
  assert.deepEqual(spent, [0.5, 0.5]);
  assert.deepEqual(counted, ['rate-limited', 'server', 'connection', 'connection']);
});

test('what cannot be helped is one error each, without the words of the endpoint, and costs nothing', async () => {
  const { pipeline, spending } = open();
  outcome = 'failed';
  const failed = errorOf((await pipeline.sampleEach([one], sampler))[0]);
  assert.deepEqual([failed.code, failed.reason], ['FAILED_PRECONDITION', 'REMOTE_ERROR']);
  assert.match(failed.message, /moderation_blocked/);
  assert.doesNotMatch(failed.message, /secret/);
  faults = [
    (response) =>
      response
        .writeHead(401, { 'content-type': 'application/json' })
        .end('{"error":{"message":"key-1 is wrong"}}'),
  ];
  const refused = errorOf((await pipeline.sampleEach([one], sampler))[0]);
  assert.equal(refused.code, 'FAILED_PRECONDITION');
  assert.match(refused.message, /local.*check the key/);
  assert.doesNotMatch(refused.message, /key-1/);
  await spending.flush();
  assert.equal((await spending.spend('run')).cost, 0);
  await assert.rejects(pipeline.sampleEach([{ ...one, caption: 'x'.repeat(3000) }], sampler), {
    code: 'INVALID_ARGUMENT',
  });
});

test('a run that has spent its budget orders nothing more; its neighbours do', async () => {
  const { pipeline } = open({}, { cost: 1 }, { clipsAtATime: 1 });
  const results = await pipeline.sampleEach(
    [one, { ...one, seed: 2n }, { ...one, seed: 3n }, { ...one, seed: 4n, account: 'other' }],
    sampler,
  );
  assert.deepEqual(
    results.map((result) => result instanceof Error),
    [false, false, true, false],
  );
  assert.equal(errorOf(results[2]).reason, 'BUDGET_EXHAUSTED');
  assert.equal(seen.filter(({ method }) => method === 'POST').length, 3);
});

test('an endpoint that is down is left alone, and a clip that takes too long is given up', async () => {
  const { pipeline } = open(
    { retries: { limit: 0 }, breaker: { failures: 2, firstRestMs: 60_000 } },
    {},
    { clipsAtATime: 1 },
  );
  faults = Array.from({ length: 9 }, () => (response: ServerResponse) => response.writeHead(500).end());
  const results = await pipeline.sampleEach(
    [1n, 2n, 3n, 4n].map((seed) => ({ ...one, seed })),
    sampler,
  );
  for (const result of results) assert.equal(errorOf(result).code, 'UNAVAILABLE');
  assert.equal(seen.length, 2);

  const slow = open({}, {}, { pollMs: 60_000, longestMs: 30 });
  faults = [];
  const late = errorOf((await slow.pipeline.sampleEach([one], sampler))[0]);
  assert.equal(late.code, 'DEADLINE_EXCEEDED');
});

test('a definition names what is wrong with it', () => {
  const parse = (change: object) => () =>
    parseRemoteModel(Buffer.from(JSON.stringify({ ...definition, ...change })), 'm.json');
  assert.throws(parse({ baseUrl: 'http://elsewhere' }), { message: /baseUrl.*m\.json/ });
  assert.throws(parse({ fps: 0 }), { message: /fps.*m\.json/ });
  assert.throws(() => parseRemoteModel(Buffer.from('x'), 'm.json'), {
    code: 'DATA_LOSS',
    message: /m\.json is not JSON/,
  });
});
