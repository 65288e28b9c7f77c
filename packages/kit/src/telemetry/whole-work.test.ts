import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ROOT_CONTEXT, trace } from '@opentelemetry/api';
import { InMemorySpanExporter, NodeTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-node';
import { WholeWork } from './whole-work.ts';

function recorder() {
  const written = new InMemorySpanExporter();
  const provider = new NodeTracerProvider({
    spanProcessors: [new WholeWork(new SimpleSpanProcessor(written))],
  });
  const tracer = provider.getTracer('t');
  return {
    provider,
    names: () => written.getFinishedSpans().map(({ name }) => name),
    start: (name: string, parent?: ReturnType<typeof tracer.startSpan>) =>
      tracer.startSpan(name, {}, parent === undefined ? ROOT_CONTEXT : trace.setSpan(ROOT_CONTEXT, parent)),
  };
}

test('a piece of work is written when it ends, and what ends later at once', () => {
  const { start, names } = recorder();
  const root = start('root');
  const child = start('child', root);
  const late = start('late', child);
  child.end();
  start('other work').end();
  assert.deepEqual(names(), ['other work']);
  root.end();
  assert.deepEqual(names(), ['other work', 'root', 'child']);
  late.end();
  assert.equal(names().at(-1), 'late');
});

test('work from another process is a piece of its own', () => {
  const { start, names } = recorder();
  const remote = trace.wrapSpanContext({ traceId: '1'.repeat(32), spanId: '2'.repeat(16), traceFlags: 1 });
  const server = start('server', remote);
  start('inner', server).end();
  assert.deepEqual(names(), []);
  server.end();
  assert.deepEqual(names(), ['server', 'inner']);
});

test('work without an end in sight is passed on as it goes, and the rest when the process stops', async () => {
  const { start, names, provider } = recorder();
  const job = start('job');
  for (let i = 0; i < 600; i++) start(`step ${i}`, job).end();
  assert.equal(names().length, 600);
  const other = start('other');
  start('within other', other).end();
  assert.equal(names().length, 600);
  await provider.forceFlush();
  assert.equal(names().at(-1), 'within other');
});
