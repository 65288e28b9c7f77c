import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { retrying } from '@plumb/endpoint';
import { startTelemetry } from '@plumb/kit/telemetry';
import type { SpanRecord } from '@plumb/kit/telemetry';
import { judgesFileSchema } from '../domain/judge-definition.ts';
import type { Question } from '../domain/question.ts';
import { openEndpoint } from './openai-endpoint.ts';

const caption = 'a red ball falls';
const question: Question = {
  model: 'm',
  system: 'you judge',
  parts: [
    { kind: 'text', text: caption },
    {
      kind: 'image',
      image: { mediaType: 'image/png', width: 1, height: 1, bytes: new Uint8Array([1, 2, 3]) },
    },
  ],
  answer: { kind: 'json-object' },
  temperature: 0,
  seed: 1,
  maxOutputTokens: 100,
  tokenLimitParameter: 'max_completion_tokens',
  logProbabilities: false,
};

async function address(server: Server): Promise<string> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const bound = server.address();
  assert.ok(typeof bound === 'object' && bound !== null);
  return `http://127.0.0.1:${bound.port}/v1`;
}

test('the spans of calls: tries, what is retried, and no content unless it is asked for', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'plumb-judge-'));
  t.after(() => rm(directory, { recursive: true }));
  let calls = 0;
  const server = createServer((_, response) => {
    calls += 1;
    if (calls === 1) response.writeHead(503).end('busy');
    else if (calls === 5) response.writeHead(400).end('no');
    else {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(
        JSON.stringify({
          id: 'c',
          model: 'm',
          choices: [{ finish_reason: 'stop', message: { content: 'it bounces' } }],
          usage: { prompt_tokens: 10, completion_tokens: 2 },
        }),
      );
    }
  });
  const baseUrl = await address(server);
  t.after(() => server.close());
  const definition = judgesFileSchema.parse({
    endpoints: { e: { baseUrl, retries: { firstDelayMs: 0, limit: 2 } } },
    judges: {
      j: { version: '1', endpoint: 'e', model: 'm', mode: 'binary', rubric: 'r', frames: { count: 1 } },
    },
  }).endpoints['e'];
  assert.ok(definition !== undefined);
  const telemetry = await startTelemetry({ service: 'judge-test', version: '0', spanDirectory: directory });
  const signal = new AbortController().signal;
  for (const content of ['off', 'prompt', 'all'] as const) {
    const endpoint = openEndpoint('e', definition, undefined, content);
    await retrying(() => endpoint.complete(question, signal), { retries: definition.retries, signal });
  }
  const endpoint = openEndpoint('e', definition, undefined);
  await assert.rejects(
    retrying(() => endpoint.complete(question, signal), { retries: definition.retries, signal }),
  );
  await telemetry.shutdown();
  const [file = ''] = await readdir(directory);
  const spans = (await readFile(join(directory, file), 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as SpanRecord)
    .toSorted((a, b) => a.startMs - b.startMs);
  assert.deepEqual(
    spans.map(({ status, attributes }) => [
      status,
      attributes['plumb.retry.attempt'],
      attributes['plumb.error.retried'],
      attributes['plumb.error.reason'],
    ]),
    [
      ['error', 1, true, 'server'],
      ['unset', 2, undefined, undefined],
      ['unset', 1, undefined, undefined],
      ['unset', 1, undefined, undefined],
      ['error', 1, false, 'rejected'],
    ],
  );
  const shown = spans.map(({ attributes }) => {
    const text = JSON.stringify(attributes);
    assert.doesNotMatch(text, /AQID/, 'no picture');
    return [text.includes(caption), text.includes('it bounces')];
  });
  assert.deepEqual(shown, [
    [false, false],
    [false, false],
    [true, false],
    [true, true],
    [false, false],
  ]);
});
