import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { ROOT_CONTEXT, trace, TraceFlags } from '@opentelemetry/api';
import type { Context, Span } from '@opentelemetry/api';
import { InMemorySpanExporter, NodeTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-node';
import { unavailable } from '../errors.ts';
import { currentCarrier, startTelemetry, tracer, withSpan } from '../telemetry.ts';
import { headSampler, NotableSpans } from './sampling.ts';

function recorder(ratio: number, slowMs = 60_000) {
  const written = new InMemorySpanExporter();
  const provider = new NodeTracerProvider({
    sampler: headSampler(ratio),
    spanProcessors: [new NotableSpans([new SimpleSpanProcessor(written)], slowMs)],
  });
  return { names: () => written.getFinishedSpans().map(({ name }) => name), tracer: provider.getTracer('t') };
}

function start(made: ReturnType<typeof recorder>, name: string, parent?: Context): Span {
  return made.tracer.startSpan(name, {}, parent);
}

function startedIn(span: Span): Context {
  return trace.setSpan(ROOT_CONTEXT, span);
}

test('a share of the traces is written whole, and the others not at all', () => {
  const made = recorder(0.5);
  const traces = 400;
  for (let i = 0; i < traces; i++) {
    const root = start(made, `root ${i}`);
    start(made, `child ${i}`, startedIn(root)).end();
    root.end();
  }
  const roots = made.names().filter((name) => name.startsWith('root')).length;
  assert.equal(made.names().length, 2 * roots);
  // Binomial: outside of it once in more than a million runs.
  assert.ok(roots > traces * 0.37 && roots < traces * 0.63, String(roots));
});

test('a trace that is not sampled keeps its ids and its flag, across processes', () => {
  const made = recorder(0);
  const span = start(made, 'root');
  const context = span.spanContext();
  assert.match(context.traceId, /^(?!0{32})[0-9a-f]{32}$/);
  assert.equal(context.traceFlags & TraceFlags.SAMPLED, 0);
  const other = recorder(1);
  const remote = trace.setSpanContext(ROOT_CONTEXT, { ...context, isRemote: true });
  other.tracer.startSpan('elsewhere', {}, remote).end();
  assert.deepEqual(other.names(), [], 'the decision was made at the head');
});

test('an error keeps what this process has of the trace, before it and after it', () => {
  const made = recorder(0);
  const root = start(made, 'root');
  start(made, 'before', startedIn(root)).end();
  const failing = start(made, 'failing', startedIn(root));
  failing.setStatus({ code: 2 });
  failing.end();
  start(made, 'after', startedIn(root)).end();
  root.end();
  start(made, 'another trace').end();
  assert.deepEqual(made.names(), ['before', 'failing', 'after', 'root']);
});

test('a slow span keeps its trace', () => {
  const made = recorder(0, 1000);
  const root = made.tracer.startSpan('root', { startTime: Date.now() - 2000 });
  start(made, 'child', startedIn(root)).end();
  assert.deepEqual(made.names(), []);
  root.end();
  assert.deepEqual(made.names(), ['child', 'root']);
});

test('what is held back is bounded: the oldest traces are forgotten first', () => {
  const made = recorder(0);
  const first = start(made, 'first');
  start(made, 'child of the first', startedIn(first)).end();
  for (let i = 0; i < 10_000; i++) start(made, 'other').end();
  first.setStatus({ code: 2 });
  first.end();
  assert.deepEqual(made.names(), ['first']);
});

const folder = (t: TestContext): string => {
  const directory = mkdtempSync(path.join(tmpdir(), 'plumb-kit-'));
  t.after(() => {
    rmSync(directory, { recursive: true });
  });
  return directory;
};

test('a process that samples nothing writes its failures, with ids everywhere', async (t) => {
  const directory = folder(t);
  const telemetry = await startTelemetry({
    service: 'unsampled',
    version: '1',
    spanDirectory: directory,
    traceRatio: 0,
  });
  await withSpan(tracer('test'), 'fine', {}, () => {
    assert.match(currentCarrier()['traceparent'] ?? '', /-00$/);
  });
  await assert.rejects(
    withSpan(tracer('test'), 'broken', {}, () => {
      throw unavailable('away');
    }),
  );
  await telemetry.shutdown();
  const lines = readFileSync(path.join(directory, `unsampled-${hostname()}-${process.pid}.jsonl`), 'utf8')
    .trim()
    .split('\n');
  assert.deepEqual(
    lines.map((line) => (JSON.parse(line) as { name: string }).name),
    ['broken'],
  );
});
