import assert from 'node:assert/strict';
import { test } from 'node:test';
import { likelyCause, parseBudgets, StallWatch, watchedStages } from './stall.ts';
import type { JudgeSigns, StageWork, WatchedStage } from './stall.ts';

const idle: StageWork = { left: 0, done: 0 };
const work = (given: Partial<Record<WatchedStage, StageWork>>): Record<WatchedStage, StageWork> => ({
  ...(Object.fromEntries(watchedStages.map((stage) => [stage, idle])) as Record<WatchedStage, StageWork>),
  ...given,
});
const budgets = parseBudgets('generate=10,score=20,train=30', 40);

test('a stage stalls once its budget is spent without progress, is told once, and told when it moves', () => {
  const watch = new StallWatch(budgets);
  const still = work({ generate: { left: 5, done: 3 } });
  assert.deepEqual(watch.look(still, 0), []);
  assert.deepEqual(watch.look(still, 9999), []);
  assert.deepEqual(watch.look(still, 10_000), [
    { stage: 'generate', kind: 'stalled', left: 5, idleSeconds: 10 },
  ]);
  assert.deepEqual(watch.look(still, 50_000), []);
  assert.deepEqual(watch.look(work({ generate: { left: 4, done: 4 } }), 60_000), [
    { stage: 'generate', kind: 'moving', left: 4, idleSeconds: 60 },
  ]);
});

test('progress and having nothing to do begin the budget anew', () => {
  const watch = new StallWatch(budgets);
  for (let at = 0; at < 100; at++) {
    assert.deepEqual(watch.look(work({ score: { left: 100 - at, done: at } }), at * 15_000), []);
  }
  const later = new StallWatch(budgets);
  later.look(work({}), 0);
  assert.deepEqual(
    later.look(work({ train: { left: 1, done: 0 } }), 3_600_000),
    [],
    'it waited for its turn',
  );
  assert.equal(later.look(work({ train: { left: 1, done: 0 } }), 3_700_000).length, 1);
});

test('each stage has its own budget', () => {
  const watch = new StallWatch(budgets);
  const all = work(Object.fromEntries(watchedStages.map((stage) => [stage, { left: 1, done: 0 }])));
  watch.look(all, 0);
  const stalledAt = (nowMs: number) => watch.look(all, nowMs).map(({ stage }) => stage);
  assert.deepEqual(stalledAt(25_000), ['generate', 'score']);
  assert.deepEqual(stalledAt(35_000), ['train']);
  assert.deepEqual(stalledAt(45_000), ['judge', 'freeze', 'evaluate', 'gate', 'ledger']);
});

test('of a stage that cannot be seen nothing is said, and its budget begins anew', () => {
  const watch = new StallWatch(budgets);
  const still = { generate: { left: 5, done: 3 } };
  watch.look(still, 0);
  assert.deepEqual(watch.look({}, 9000), []);
  assert.deepEqual(watch.look(still, 15_000), []);
  assert.equal(watch.look(still, 19_000).length, 1);
});

test('a stall that something else is to blame for is taken back, and told later if it lasts', () => {
  const watch = new StallWatch(budgets);
  const still = work({ judge: { left: 1, done: 0 } });
  watch.look(still, 0);
  assert.equal(watch.look(still, 40_000).length, 1);
  watch.forgive('judge', 40_000);
  assert.deepEqual(watch.look(still, 79_000), []);
  assert.equal(watch.look(still, 80_000).length, 1);
});

test('the cause follows from the queue, the judge, the job and what fails', () => {
  const judge = (given: Partial<JudgeSigns>): JudgeSigns => ({
    answers: true,
    endpoints: [],
    exhausted: false,
    ...given,
  });
  const endpoint = { name: 'toybox', state: 'serving', callsInFlight: 0 } as const;
  const inHand = { waiting: 7, inFlight: 3 };
  const expected: [WatchedStage, Parameters<typeof likelyCause>[1], string, RegExp][] = [
    ['generate', { queue: { waiting: 7, inFlight: 0 } }, 'no-worker', /7 tasks wait and no generator/],
    ['generate', {}, 'no-worker', /is one running/],
    ['generate', { queue: inHand }, 'worker-silent', /3 tasks are with generators/],
    ['generate', { queue: inHand, failure: 'the queue is full' }, 'step-failing', /the queue is full/],
    ['score', { queue: inHand, judge: judge({}) }, 'worker-silent', /3 tasks .* reward service/],
    ['score', { queue: { waiting: 0, inFlight: 0 } }, 'results-lost', /empty although/],
    ['score', { queue: inHand, judge: judge({ answers: false }) }, 'judge-unreachable', /does not answer/],
    ['score', { queue: inHand, judge: judge({ exhausted: true }) }, 'budget-spent', /plumb judge budget/],
    [
      'judge',
      { judge: judge({ endpoints: [endpoint, { ...endpoint, name: 'vlm', state: 'down' }] }) },
      'endpoint-down',
      /endpoint vlm .* breaker is open/,
    ],
    [
      'judge',
      { judge: judge({ endpoints: [{ ...endpoint, callsInFlight: 4 }] }) },
      'endpoint-silent',
      /4 calls are with the endpoint toybox/,
    ],
    ['train', { job: 'pending' }, 'job-waiting', /waits for its turn/],
    ['train', { job: 'running' }, 'trainer-silent', /trainer is away/],
    ['train', {}, 'step-silent', /does not take the job/],
    ['freeze', {}, 'step-silent', /artifact store/],
    ['evaluate', { failure: 'the disk is full' }, 'step-failing', /the disk is full/],
    ['ledger', {}, 'ledger-silent', /locks/],
    ['ledger', { failure: 'connection refused' }, 'ledger-failing', /connection refused/],
  ];
  for (const [stage, signs, kind, text] of expected) {
    const cause = likelyCause(stage, signs);
    assert.equal(cause.kind, kind, `${stage} ${JSON.stringify(signs)}`);
    assert.match(cause.text, text);
  }
});

test('budgets are read from text, and what is wrong is named', () => {
  const read = parseBudgets('generate=600, train=1.5', 300);
  assert.deepEqual([read.generate, read.score, read.train, read.ledger], [600, 300, 1.5, 300]);
  for (const wrong of ['store=3', 'generate', 'generate=', 'generate=-1', 'train=soon']) {
    assert.throws(() => parseBudgets(wrong, 300), new RegExp(`'${wrong}' is no budget`));
  }
});
