import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { timestampFromDate } from '@bufbuild/protobuf/wkt';
import { invalidArgument, PlumbError, toStatus, unavailable } from '@plumb/kit/errors';
import { ReportSchema, RunSchema, RunState, Stage } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { eventsBetween, feedbackRunStatus, sameStatus } from './feedback-run-status.ts';
import type { FeedbackRunFacts, FeedbackRunStatus } from './feedback-run-status.ts';

const now = new Date('2026-01-02T03:04:05.678Z');
const later = new Date('2026-01-02T04:00:00Z');
const budget = new PlumbError({
  code: 'FAILED_PRECONDITION',
  reason: 'BUDGET_EXHAUSTED',
  message: '100 samples are used',
});

const rate = (value: number) => ({ overall: { rate: value, low: 0, high: 1, samples: 40 } });
const report = create(ReportSchema, {
  iterations: [
    {
      iteration: 1,
      before: rate(0.481),
      after: rate(0.7),
      decision: { promoted: true },
      afterVersion: 'toybox@1',
    },
    {
      iteration: 2,
      before: rate(0.7),
      after: rate(0.8631),
      decision: { promoted: false },
      afterVersion: 'toybox@2',
    },
  ],
});

function facts(
  run: Parameters<typeof create<typeof RunSchema>>[1] | undefined,
  more: Partial<FeedbackRunFacts> = {},
): FeedbackRunFacts {
  return {
    generation: 1,
    run:
      run === undefined
        ? undefined
        : {
            run: create(RunSchema, {
              id: 'run-1',
              iteration: 2,
              currentModelVersion: 'toybox@1',
              createTime: timestampFromDate(now),
              ...run,
            }),
            report: undefined,
            iterations: 3,
          },
    paused: false,
    error: undefined,
    ...more,
  };
}

const shown = ({ conditions }: FeedbackRunStatus) =>
  conditions
    .filter(({ status }) => status !== 'False')
    .map(({ type, status, reason }) => `${type}=${status} ${reason}`);

const cases: readonly {
  readonly name: string;
  readonly given: FeedbackRunFacts;
  readonly state: FeedbackRunStatus['state'];
  readonly conditions: readonly string[];
  readonly says?: RegExp;
}[] = [
  { name: 'new', given: facts(undefined), state: 'Pending', conditions: ['Accepted=Unknown Pending'] },
  {
    name: 'refused',
    given: facts(undefined, { error: invalidArgument('spec.iterations', 'must be at least 1') }),
    state: 'Refused',
    conditions: [],
    says: /spec\.iterations.*must be at least 1/,
  },
  {
    name: 'the ledger is away',
    given: facts(undefined, { error: unavailable('the ledger does not answer') }),
    state: 'Pending',
    conditions: ['Accepted=Unknown TryingAgain'],
    says: /does not answer/,
  },
  {
    name: 'running',
    given: facts({ state: RunState.RUNNING, stage: Stage.TRAIN }),
    state: 'Running',
    conditions: ['Accepted=True RunCreated', 'Progressing=True Training'],
    says: /iteration 2 of 3/,
  },
  {
    name: 'running, with a spec that has changed',
    given: facts(
      { state: RunState.RUNNING, stage: Stage.SAMPLE },
      {
        error: new PlumbError({
          code: 'ALREADY_EXISTS',
          reason: 'IDEMPOTENCY_KEY_REUSED',
          message: 'spec.seed is 7 there and 8 here',
        }),
      },
    ),
    state: 'Running',
    conditions: ['Progressing=True Sampling'],
    says: /spec\.seed is 7 there/,
  },
  {
    name: 'paused because the object says so',
    given: facts({ state: RunState.PAUSED, stage: Stage.SAMPLE }, { paused: true }),
    state: 'Paused',
    conditions: ['Accepted=True RunCreated', 'Paused=True Requested'],
  },
  {
    name: 'paused by somebody else',
    given: facts({ state: RunState.PAUSED, stage: Stage.SAMPLE }),
    state: 'Paused',
    conditions: ['Accepted=True RunCreated', 'Paused=True PausedElsewhere'],
  },
  {
    name: 'paused by a budget',
    given: facts({ state: RunState.PAUSED, stage: Stage.SAMPLE, error: toStatus(budget) }),
    state: 'Paused',
    conditions: ['Accepted=True RunCreated', 'Paused=True BudgetExhausted'],
    says: /100 samples are used; mend it/,
  },
  {
    name: 'failed',
    given: facts({ state: RunState.FAILED, error: toStatus(budget) }),
    state: 'Failed',
    conditions: ['Accepted=True RunCreated', 'Failed=True BudgetExhausted'],
    says: /100 samples are used/,
  },
  {
    name: 'cancelled',
    given: facts({ state: RunState.CANCELLED }),
    state: 'Cancelled',
    conditions: ['Accepted=True RunCreated', 'Failed=True Cancelled'],
  },
];

for (const { name, given, state, conditions, says } of cases) {
  test(`a FeedbackRun that is ${name}`, () => {
    const status = feedbackRunStatus(given, undefined, now);
    assert.equal(status.state, state);
    assert.deepEqual(shown(status), conditions);
    if (says !== undefined) assert.match(status.conditions.map(({ message }) => message).join('\n'), says);
    // All types are always there, so that kubectl wait has something to wait for; reasons are as the API wants them.
    assert.equal(status.conditions.length, 5);
    for (const { reason } of status.conditions)
      assert.match(reason, /^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$/);
  });
}

test('a run that has succeeded: the last decision, and acceptance over the whole run', () => {
  const ended = facts({ state: RunState.SUCCEEDED, stage: Stage.DONE, endTime: timestampFromDate(later) });
  const known = ended.run;
  assert.ok(known !== undefined);
  const status = feedbackRunStatus({ ...ended, run: { ...known, report } }, undefined, now);
  assert.equal(status.acceptance, '48.1% -> 86.3%');
  assert.equal(status.iteration, '2/3');
  assert.equal(status.startTime, '2026-01-02T03:04:05Z');
  assert.equal(status.completionTime, '2026-01-02T04:00:00Z');
  const succeeded = status.conditions.find(({ type }) => type === 'Succeeded');
  assert.match(succeeded?.message ?? '', /toybox@2 was refused; acceptance 48\.1% -> 86\.3%/);
});

test('a condition keeps its time while its status stays, and follows the generation', () => {
  const running = facts({ state: RunState.RUNNING, stage: Stage.SAMPLE });
  const first = feedbackRunStatus(running, undefined, now);
  const next = feedbackRunStatus(
    facts({ state: RunState.RUNNING, stage: Stage.TRAIN }, { generation: 2 }),
    first,
    later,
  );
  for (const condition of next.conditions) {
    assert.equal(condition.lastTransitionTime, '2026-01-02T03:04:05Z');
    assert.equal(condition.observedGeneration, 2);
  }
  const paused = feedbackRunStatus(facts({ state: RunState.PAUSED }, { paused: true }), next, later);
  const at = Object.fromEntries(paused.conditions.map((c) => [c.type, c.lastTransitionTime]));
  assert.equal(at['Paused'], '2026-01-02T04:00:00Z');
  assert.equal(at['Progressing'], '2026-01-02T04:00:00Z');
  assert.equal(at['Accepted'], '2026-01-02T03:04:05Z');
});

test('events tell what has come about, once', () => {
  const refused = feedbackRunStatus(
    facts(undefined, { error: invalidArgument('spec.iterations', 'must be at least 1') }),
    undefined,
    now,
  );
  assert.deepEqual(
    eventsBetween(undefined, refused).map(({ type, reason }) => `${type} ${reason}`),
    ['Warning SpecRefused'],
  );
  assert.deepEqual(eventsBetween(refused, refused), []);
  const running = feedbackRunStatus(facts({ state: RunState.RUNNING, stage: Stage.SAMPLE }), refused, now);
  assert.deepEqual(
    eventsBetween(refused, running).map(({ type, reason }) => `${type} ${reason}`),
    ['Normal RunCreated', 'Normal Sampling'],
  );
  const paused = feedbackRunStatus(facts({ state: RunState.PAUSED, error: toStatus(budget) }), running, now);
  assert.deepEqual(
    eventsBetween(running, paused).map(({ type, reason }) => `${type} ${reason}`),
    ['Warning PausedBudgetExhausted'],
  );
});

test('a status that the API server has ordered otherwise is the same', () => {
  const status = feedbackRunStatus(facts({ state: RunState.RUNNING, stage: Stage.SAMPLE }), undefined, now);
  const reordered = Object.fromEntries(Object.entries(status).toReversed()) as unknown as FeedbackRunStatus;
  assert.ok(sameStatus(reordered, status));
  assert.ok(!sameStatus(undefined, status));
  assert.ok(!sameStatus(reordered, { ...status, iteration: '3/3' }));
});

test('a long message is cut to what an object may hold', () => {
  const error = invalidArgument('spec', 'x'.repeat(50_000));
  const status = feedbackRunStatus(facts(undefined, { error }), undefined, now);
  const accepted = status.conditions.find(({ type }) => type === 'Accepted');
  assert.equal(accepted?.message.length, 4096);
});
