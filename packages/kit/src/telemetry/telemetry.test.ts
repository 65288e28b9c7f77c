import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';
import type { TestContext } from 'node:test';
import { context, ROOT_CONTEXT, trace } from '@opentelemetry/api';
import { BatchSpanProcessor, NodeTracerProvider } from '@opentelemetry/sdk-trace-node';
import { unavailable } from '../errors.ts';
import {
  contextFromCarrier,
  counter,
  createLogger,
  currentCarrier,
  linkTo,
  SpanFile,
  startTelemetry,
  tracer,
  withSpan,
  withWork,
} from '../telemetry.ts';
import { withCarriedWork, workCarrier } from './work-ids.ts';

function folder(t: TestContext): string {
  const directory = mkdtempSync(path.join(tmpdir(), 'plumb-kit-'));
  t.after(() => {
    rmSync(directory, { recursive: true });
  });
  return directory;
}

test('the whole of it: spans to the file and the collector, metrics on the endpoint', async (t) => {
  const directory = folder(t);
  const received: string[] = [];
  const collector = createServer((request, response) => {
    received.push(`${request.method} ${request.url} ${request.headers['content-type']}`);
    request.resume();
    response.end();
  }).listen(0, '127.0.0.1');
  await once(collector, 'listening');
  t.after(() => collector.close());
  const bound = collector.address();
  assert.ok(bound !== null && typeof bound === 'object');

  const scores = counter('test', 'plumb.test.scores', { unit: '{score}', description: 'Of a test' });
  scores.add(5); // before the start: nobody listens, and nothing breaks
  const telemetry = await startTelemetry({
    service: 'telemetry-test',
    version: '1.2.3',
    spanDirectory: directory,
    otlpEndpoint: `http://127.0.0.1:${bound.port}/`,
  });
  scores.add(2, { category: 'OR' });

  const failure = unavailable('the scorer is away');
  await withSpan(tracer('test'), 'outer', { attributes: { 'plumb.run.id': 'r1' } }, async () => {
    const carrier = currentCarrier();
    assert.match(carrier['traceparent'] ?? '', /^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
    const link = linkTo(carrier);
    assert.ok(link !== undefined);
    await assert.rejects(
      withSpan(tracer('test'), 'inner', { links: [link, undefined] }, () => {
        throw failure;
      }),
      (error) => error === failure,
    );
    assert.equal(
      trace.getSpanContext(contextFromCarrier(carrier))?.traceId,
      trace.getActiveSpan()?.spanContext().traceId,
    );
  });
  assert.equal(linkTo({}), undefined);

  const metrics = await (await fetch(`http://${telemetry.metricsAddress}/metrics`)).text();
  assert.match(metrics, /plumb_test_scores(_total)?\{[^}]*category="OR"[^}]*\} 2/);
  assert.equal((await fetch(`http://${telemetry.metricsAddress}/other`)).status, 404);
  await telemetry.shutdown();
  assert.ok(received.includes('POST /v1/traces application/x-protobuf'), received.join());
  assert.ok(received.includes('POST /v1/metrics application/x-protobuf'), received.join());

  const lines = readFileSync(
    path.join(directory, `telemetry-test-${hostname()}-${process.pid}.jsonl`),
    'utf8',
  )
    .trimEnd()
    .split('\n');
  const [outer, inner] = lines.map((line): Record<string, unknown> => JSON.parse(line));
  assert.ok(inner !== undefined && outer !== undefined);
  assert.equal(outer['name'], 'outer');
  assert.deepEqual(outer['attributes'], { 'plumb.run.id': 'r1' });
  assert.equal(inner['parentSpanId'], outer['spanId']);
  assert.equal(inner['status'], 'error');
  assert.equal(inner['statusMessage'], 'the scorer is away');
  assert.deepEqual(inner['links'], [{ traceId: outer['traceId'], spanId: outer['spanId'] }]);
  assert.ok(
    Number(inner['startMs']) >= Number(outer['startMs']) && Number(inner['endMs']) <= Number(outer['endMs']),
  );
});

describe('the span file', () => {
  const write = async (file: SpanFile, spans: number): Promise<void> => {
    const provider = new NodeTracerProvider({
      spanProcessors: [new BatchSpanProcessor(file, { maxExportBatchSize: 10, maxQueueSize: 10_000 })],
    });
    for (let i = 0; i < spans; i++) provider.getTracer('test').startSpan(`span ${i}`).end();
    await provider.shutdown();
  };

  test('is rotated, and all together stay within the bound', async (t) => {
    const directory = folder(t);
    const limits = { maxFileBytes: 10_000, maxTotalBytes: 40_000 };
    await write(new SpanFile(directory, 'rotate', limits), 500);
    const sizes = readdirSync(directory).map((name) => statSync(path.join(directory, name)).size);
    assert.ok(sizes.length > 1 && sizes.length <= 5, `${sizes.length} files`);
    assert.ok(sizes.every((size) => size <= limits.maxFileBytes));
    assert.ok(sizes.reduce((sum, size) => sum + size, 0) <= limits.maxTotalBytes);
    const newest = readFileSync(path.join(directory, `rotate-${hostname()}-${process.pid}.jsonl`), 'utf8');
    assert.match(newest, /"span 499"/);
  });

  test('a folder that is gone loses spans, and breaks nothing', async (t) => {
    const directory = folder(t);
    const gone = path.join(directory, 'gone');
    const file = new SpanFile(gone, 'lost');
    rmSync(gone, { recursive: true });
    // The processor tells of it only when the last batch is the one that fails.
    await write(file, 25).catch((error: unknown) => {
      assert.equal(error instanceof Error && 'code' in error && error.code, 'ENOENT');
    });
    assert.deepEqual(readdirSync(directory), []);
  });
});

describe('the logger', () => {
  const capture = () => {
    const lines: string[] = [];
    return { lines, log: createLogger({ write: (line) => void lines.push(line) }) };
  };

  test('one line of JSON an event, with level, time and trace ids', async (t) => {
    const { lines, log } = capture();
    const telemetry = await startTelemetry({ service: 'logger-test', version: '0' });
    t.after(() => telemetry.shutdown());
    await withSpan(tracer('test'), 'span', {}, (span) => {
      log.info({ sampleId: 's1' }, 'scored');
      const entry: Record<string, unknown> = JSON.parse(lines[0] ?? '');
      assert.equal(entry['level'], 'info');
      assert.equal(entry['message'], 'scored');
      assert.equal(entry['sampleId'], 's1');
      assert.equal(entry['spanId'], span.spanContext().spanId);
      assert.match(String(entry['time']), /^\d{4}-\d\d-\d\dT/);
    });
    context.with(contextFromCarrier({}), () => {
      log.info('outside');
    });
    assert.doesNotMatch(lines[1] ?? '', /traceId/);
  });

  test('lines carry the ids of the work that they are about, in this process and the next', async (t) => {
    const { lines, log } = capture();
    const telemetry = await startTelemetry({ service: 'ids-test', version: '0' });
    t.after(() => telemetry.shutdown());
    const work = withWork({ runId: 'run-1', sampleId: 's1', jobId: '' });
    const carried = workCarrier(work);
    assert.deepEqual(Object.keys(carried), ['baggage']);
    assert.deepEqual(currentCarrier(work), {}, 'endpoints of others get none of it');
    for (const where of [work, withCarriedWork(carried, ROOT_CONTEXT)]) {
      context.with(where, () => {
        log.info('scored');
      });
    }
    for (const line of lines) {
      const { runId, sampleId, jobId } = JSON.parse(line) as Record<string, unknown>;
      assert.deepEqual({ runId, sampleId, jobId }, { runId: 'run-1', sampleId: 's1', jobId: undefined });
    }
    const hostile = { baggage: `plumb.run.id=${'x'.repeat(500)},other=1` };
    context.with(withCarriedWork(hostile, ROOT_CONTEXT), () => {
      log.info('hostile');
    });
    assert.doesNotMatch(lines.at(-1) ?? '', /xxx|other/);
  });

  test('secrets do not get in', () => {
    const { lines, log } = capture();
    log.info({ apiKey: 'hunter2', request: { authorization: 'Bearer hunter2' } }, 'calling the judge');
    assert.doesNotMatch(lines.join(''), /hunter2/);
    assert.match(lines.join(''), /\[redacted\]/);
  });
});
