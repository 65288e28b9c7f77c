import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SpanRecord } from '@plumb/kit/telemetry';
import { summarise } from '@plumb/trace';
import { stageTable, waterfall } from './waterfall.ts';

function span(name: string, startMs: number, endMs: number, given: Partial<SpanRecord> = {}): SpanRecord {
  return {
    traceId: 't',
    spanId: `${name} ${startMs}`,
    name,
    kind: 'internal',
    service: 'plumb-loop',
    startMs,
    endMs,
    status: 'unset',
    attributes: {},
    events: [],
    links: [],
    ...given,
  };
}
const root = span('sample', 0, 1000);
const under = (given: Partial<SpanRecord> = {}) => ({ parentSpanId: root.spanId, ...given });

test('a line for each span, in its place; what the end waited for has another sign', () => {
  const lines = waterfall(
    summarise([
      root,
      span('first half', 0, 500, under({ service: 'plumb-generator' })),
      span('second half', 500, 1000, under({ status: 'error' })),
      span('beside', 0, 250, under()),
    ]),
    80,
  );
  assert.ok(
    lines.every((line) => line.length <= 80),
    lines.join('\n'),
  );
  const line = (name: string): string => lines.find((one) => one.includes(name)) ?? assert.fail(name);
  const signs = (name: string): { first: number; last: number; sign: string } => {
    const bar = line(name).slice(10);
    return {
      first: bar.search(/[#-]/),
      last: Math.max(bar.lastIndexOf('#'), bar.lastIndexOf('-')),
      sign: /[#-]/.exec(bar)?.[0] ?? '',
    };
  };
  assert.equal(signs('first half').sign, '#');
  assert.equal(signs('beside').sign, '-');
  assert.ok(signs('first half').last < signs('second half').first + 1);
  assert.match(line('second half'), /second half!/);
  assert.match(line('first half'), /^generator .* 500 ms$/);
});

test('many equal spans are one line with their sum', () => {
  const engines = Array.from({ length: 9 }, (_, at) => span('engine run', at * 100, at * 100 + 50, under()));
  const lines = waterfall(summarise([root, ...engines]), 80);
  assert.equal(lines.filter((line) => line.includes('engine run')).length, 1);
  assert.match(lines.find((line) => line.includes('engine run')) ?? '', /engine run x9 .* 450 ms$/);
});

test('long names are cut, and tables keep within the width', () => {
  const deep = span(`a name that is far too long for its column ${'x'.repeat(100)}`, 0, 1000, under());
  const summary = summarise([root, deep]);
  for (const width of [60, 80, 120]) {
    for (const line of [...waterfall(summary, width), ...stageTable(summary.stages, width)]) {
      assert.ok(line.length <= width, `${line.length} of ${width}: ${line}`);
    }
  }
});
