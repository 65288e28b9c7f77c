import assert from 'node:assert/strict';
import { test } from 'node:test';
import { likelyCause, parseBudgets, StallWatch } from './stall.ts';
import type { StageWork, WatchedStage } from './stall.ts';

const idle: StageWork = { left: 0, done: 0 };
const work = (given: Partial<Record<WatchedStage, StageWork>>): Record<WatchedStage, StageWork> => ({
  generate: idle,
  score: idle,
  train: idle,
  ...given,
});
const budgets = { generate: 10, score: 20, train: 30 };

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

test('each stage has its own budget; the end gives back those that were stalled', () => {
  const watch = new StallWatch(budgets);
  const all = work({
    generate: { left: 1, done: 0 },
    score: { left: 1, done: 0 },
    train: { left: 1, done: 0 },
  });
  watch.look(all, 0);
  assert.deepEqual(
    watch.look(all, 25_000).map(({ stage }) => stage),
    ['generate', 'score'],
  );
  assert.deepEqual(watch.end(), ['generate', 'score']);
  assert.deepEqual(watch.end(), []);
});

test('the cause follows from the queue and the job', () => {
  assert.match(
    likelyCause('generate', { queue: { waiting: 7, inFlight: 0 } }),
    /7 tasks wait and no generator/,
  );
  assert.match(likelyCause('score', { queue: { waiting: 7, inFlight: 3 } }), /3 tasks .* judge/);
  assert.match(likelyCause('score', { queue: { waiting: 0, inFlight: 0 } }), /empty although/);
  assert.match(likelyCause('generate', {}), /is one running/);
  assert.match(likelyCause('train', { job: 'pending' }), /waits for its turn/);
  assert.match(likelyCause('train', { job: 'running' }), /trainer is away/);
});

test('budgets are read from text, and what is wrong is named', () => {
  assert.deepEqual(parseBudgets('generate=600, train=1.5', 300), { generate: 600, score: 300, train: 1.5 });
  assert.deepEqual(parseBudgets('', 300), { generate: 300, score: 300, train: 300 });
  for (const wrong of ['freeze=3', 'generate', 'generate=', 'generate=-1', 'train=soon']) {
    assert.throws(() => parseBudgets(wrong, 300), new RegExp(`'${wrong}' is no budget`));
  }
});
