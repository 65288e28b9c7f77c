import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { RunSchema, Stage } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { createRunProgress } from './run-progress.ts';
import { runSecondsLeft } from './run-time-left.ts';

/** The first of three iterations: 100 clips to train on, 10 steps, 20 held-out clips from each model. */
function run(scored: bigint, steps: bigint): Run {
  const at = (seconds: number) => timestampFromMs(seconds * 1000);
  const ended = scored === 100n ? { startTime: at(0), endTime: at(50) } : {};
  return create(RunSchema, {
    iteration: 1,
    spec: { iterations: 3 },
    progress: [
      {
        iteration: 1,
        stage: Stage.SAMPLE,
        label: 'train prompts, score',
        done: scored,
        total: 100n,
        ...ended,
      },
      { iteration: 1, stage: Stage.TRAIN, label: 'train', done: steps, total: 10n },
      { iteration: 1, stage: Stage.EVALUATE, label: 'held out, before, score', done: 0n, total: 20n },
      { iteration: 1, stage: Stage.EVALUATE, label: 'held out, after, score', done: 0n, total: 20n },
    ],
  });
}

test('before training nobody knows how long the run takes', () => {
  const rows = createRunProgress();
  rows(run(0n, 0n), 0);
  assert.equal(runSecondsLeft(run(50n, 0n), rows(run(50n, 0n), 10_000)), undefined);
});

test('what is due in this iteration and in those after it, at the speeds that were seen', () => {
  const rows = createRunProgress();
  rows(run(100n, 0n), 0);
  // 2 s a step; half a second a clip in the stage that ended.
  const left = runSecondsLeft(run(100n, 4n), rows(run(100n, 4n), 8000));
  const clips = 40 + 2 * 140;
  const steps = 6 + 2 * 10;
  assert.equal(left, clips * 0.5 + steps * 2);
});

test('nothing is left when everything is done', () => {
  const done = create(RunSchema, {
    iteration: 1,
    spec: { iterations: 1 },
    progress: [{ iteration: 1, stage: Stage.TRAIN, label: 'train', done: 10n, total: 10n }],
  });
  assert.equal(runSecondsLeft(done, []), 0);
});
