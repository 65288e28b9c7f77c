import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { SpanRecord } from '@plumb/kit/telemetry';
import { criticalPath, criticalSteps, seconds, shortName, stageOf, summarise, traceTrees } from './index.ts';

/** A span from one millisecond to another; the id is its name. */
function span(name: string, startMs: number, endMs: number, given: Partial<SpanRecord> = {}): SpanRecord {
  return {
    traceId: 't',
    spanId: name,
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
const under = (parentSpanId: string, given: Partial<SpanRecord> = {}) => ({ parentSpanId, ...given });
const path = (spans: readonly SpanRecord[]) =>
  criticalPath(traceTrees(spans)).map((one) => [one.span?.name ?? '', one.startMs, one.endMs]);

describe('the critical path', () => {
  test('is the innermost span that the end waited for, without gaps and overlaps', () => {
    const spans = [
      span('root', 0, 100),
      span('early', 0, 30, under('root')),
      span('late', 20, 90, under('root')),
      span('inner', 40, 80, under('late')),
    ];
    assert.deepEqual(path(spans), [
      ['early', 0, 20],
      ['late', 20, 40],
      ['inner', 40, 80],
      ['late', 80, 90],
      ['root', 90, 100],
    ]);
  });

  test('leaves out what ended without being waited for', () => {
    const spans = [
      span('root', 0, 100),
      span('long', 0, 95, under('root')),
      span('beside', 10, 50, under('root')),
    ];
    assert.deepEqual(path(spans), [
      ['long', 0, 95],
      ['root', 95, 100],
    ]);
  });

  test('goes on where a parent ended before its children, as a sender does', () => {
    const spans = [span('send', 0, 5), span('process', 20, 60, under('send'))];
    assert.deepEqual(path(spans), [
      ['send', 0, 5],
      ['', 5, 20],
      ['process', 20, 60],
    ]);
  });

  test('of nothing is nothing', () => {
    assert.deepEqual(criticalPath([]), []);
  });
});

describe('the summary', () => {
  const spans = [
    span('sample', 0, 10),
    span('wait score', 10, 30, under('sample', { attributes: { 'messaging.operation.type': 'receive' } })),
    span('score aif', 30, 90, under('sample', { service: 'plumb-reward' })),
    span('chat m', 40, 80, under('score aif', { attributes: { 'gen_ai.operation.name': 'chat' } })),
    span('ledger', 110, 120, under('sample')),
  ];

  test('gives the time by stage, which adds up, and what is not accounted for', () => {
    const summary = summarise(spans);
    assert.deepEqual(
      summary.stages.map(({ stage, ms }) => [stage, ms]),
      [
        ['plan', 10],
        ['queue', 20],
        ['score', 20],
        ['vlm', 40],
        ['ledger', 10],
        ['untraced', 20],
      ],
    );
    assert.equal(summary.wallMs, 120);
    assert.equal(summary.accountedShare, 1 - 20 / 120);
    assert.equal(summary.orphans, 0);
  });

  test('explains gaps by the lives of linked traces, each moment once', () => {
    const elsewhere = [
      { startMs: 80, endMs: 105 },
      { startMs: 100, endMs: 108 },
    ];
    const summary = summarise(spans, elsewhere);
    const ms = (stage: string) => summary.stages.find((one) => one.stage === stage)?.ms;
    assert.deepEqual([ms('samples'), ms('untraced')], [18, 2]);
  });

  test('counts spans whose parent was written nowhere', () => {
    assert.equal(summarise([...spans, span('lost', 0, 1, under('nobody'))]).orphans, 1);
  });

  test('steps of the critical path: neighbours of one span are one', () => {
    const steps = criticalSteps(summarise(spans));
    assert.deepEqual(steps[0], { step: 'loop sample (plan)', ms: 10 });
    assert.ok(steps.some(({ step }) => step === 'reward chat m (vlm)' || step === 'loop chat m (vlm)'));
    assert.ok(steps.some(({ step, ms }) => step === 'nothing recorded' && ms === 20));
  });
});

test('stages by name, conventions and service', () => {
  const expected: [Partial<SpanRecord> & { name: string }, string][] = [
    [{ name: 'train in a pod' }, 'train'],
    [{ name: 'engine run' }, 'engine'],
    [{ name: 'SELECT runs', attributes: { 'db.system.name': 'postgresql' } }, 'sql'],
    [{ name: 'send x', attributes: { 'messaging.operation.type': 'send' } }, 'publish'],
    [
      {
        name: 'process x',
        service: 'plumb-generator',
        attributes: { 'messaging.operation.type': 'process' },
      },
      'generate',
    ],
    [{ name: 'plumb.judge.v1.JudgeService/Judge' }, 'judge'],
    [{ name: 'plumb.trainer.v1.TrainerService/GetJob', attributes: { 'rpc.system.name': 'grpc' } }, 'rpc'],
    [{ name: 'something' }, 'other'],
  ];
  for (const [given, stage] of expected) assert.equal(stageOf(span(given.name, 0, 1, given)), stage);
});

test('times and names for people', () => {
  assert.deepEqual([0.24, 43.2, 6300, 723_000].map(seconds), ['0.2 ms', '43 ms', '6.30 s', '12 min 3 s']);
  assert.equal(shortName(span('process plumb.tasks.generate', 0, 1)), 'process generate');
  assert.equal(
    shortName(span('plumb.judge.v1.JudgeService/Judge', 0, 1, { kind: 'client' })),
    'JudgeService/Judge call',
  );
});
