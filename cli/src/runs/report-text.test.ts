import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { ReportSchema, RunSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { reportText } from './report-text.ts';

const rate = (value: number) => ({ rate: value, low: value - 0.05, high: value + 0.05, samples: 40 });
const difference = (mean: number) => ({ mean, low: mean - 0.1, high: mean + 0.1, pairs: 40 });

const report = create(ReportSchema, {
  runId: 'run-1',
  iterations: [
    {
      iteration: 1,
      before: { overall: rate(0.5), FD: rate(0.4) },
      after: { overall: rate(0.62), FD: rate(0.6) },
      difference: { overall: difference(0.12), FD: difference(0.2) },
      winRate: { overall: rate(0.56), FD: rate(0.6) },
      pValue: { overall: 0.0002, FD: 0.0416 },
      heldOut: {
        reward: 'clip_score',
        before: rate(0.701),
        after: rate(0.689),
        difference: difference(-0.012),
        winRate: rate(0.44),
        pValue: 0.31,
      },
      guards: { motion_floor: { reward: 'motion_floor', before: rate(0.031), after: rate(0.033) } },
    },
  ],
});

test('win rates, p-values, what they are corrected by, and means of the other rewards are told', () => {
  const text = reportText(create(RunSchema, { id: 'run-1' }), report);
  const row = (name: string): string => text.split('\n').find((line) => line.includes(name)) ?? '';
  assert.match(row('│ 1 '), /56\.0 \[51\.0, 61\.0\].*<0\.001/);
  assert.match(row('Falling down'), /60\.0 \[55\.0, 65\.0\].*0\.042/);
  assert.match(text, /Multiple comparisons: .* corrected by Holm/);
  assert.match(row('clip_score'), /held out .*0\.701 .*0\.689 .*-0\.0120 \[-0\.112, 0\.0880\].*0\.310/);
  assert.match(row('motion_floor'), /guard .*0\.0310 .*0\.0330/);
});
