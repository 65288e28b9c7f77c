import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { RunSchema, Stage } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { createRunProgress, shortDuration } from './run-progress.ts';

function running(done: bigint, step = 0): Run {
  return create(RunSchema, {
    progress: [
      { iteration: 1, stage: Stage.SAMPLE, label: 'train prompts, generate', done, total: 100n },
      { iteration: 1, stage: Stage.TRAIN, label: 'train', done: BigInt(step), total: 10n },
      { iteration: 1, stage: Stage.GATE, label: 'gate', done: 0n, total: 0n },
    ],
    training: { step, totalSteps: 10, loss: 0.12345 },
  });
}

test('rows have counts, and rate and time left once something moved', () => {
  const rows = createRunProgress();
  const [first] = rows(running(0n), 0);
  assert.deepEqual({ rate: first?.rate, left: first?.left }, { rate: '', left: '' });
  const [second] = rows(running(25n), 10_000);
  assert.deepEqual(second, {
    key: '1 1 train prompts, generate',
    label: 'train prompts, generate',
    done: 25,
    total: 100,
    rate: '2.5/s',
    left: '30 s left',
    detail: '',
    secondsLeft: 30,
  });
  assert.equal(rows(running(100n), 20_000)[0]?.left, '');
});

test('the training row tells the loss, and stages of nothing are left out', () => {
  const shown = createRunProgress()(running(100n, 4), 0);
  assert.deepEqual(
    shown.map(({ label, detail }) => [label, detail]),
    [
      ['train prompts, generate', ''],
      ['train', 'loss 0.1235'],
    ],
  );
});

test('durations are short and of one width within their kind', () => {
  assert.deepEqual([44.6, 185, 3720, -1].map(shortDuration), ['45 s', '3 min 05 s', '1 h 02 min', '0 s']);
});
