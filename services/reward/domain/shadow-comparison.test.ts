import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import fc from 'fast-check';
import type { RewardInfo } from './reward-scorer.ts';
import type { Outcome } from './scoring.ts';
import { compareScores } from './shadow-comparison.ts';

const info: RewardInfo = {
  name: 'r',
  description: 'r',
  version: '1',
  definitionHash: '',
  kind: 'guard',
  weightsHash: '',
  minimum: undefined,
  maximum: undefined,
  higherIsBetter: true,
  framesSampled: 0,
  fpsExpected: 0,
};

function outcome(result: Outcome['result']): Outcome {
  const timings = { queueMs: 0, inferenceMs: 2, totalMs: 2 };
  return { reward: 'r', version: '1', weightsHash: '', result, timings, cached: false };
}

const failure = (code: 'INTERNAL' | 'RESOURCE_EXHAUSTED'): PlumbError =>
  new PlumbError({ code, reason: 'REWARD_FAILED', message: 'no' });

test('running sums give what the pairs themselves give', () => {
  const numbers = fc.double({ min: -100, max: 100, noNaN: true });
  fc.assert(
    fc.property(fc.array(fc.tuple(numbers, numbers), { minLength: 2, maxLength: 40 }), (pairs) => {
      const comparison = compareScores();
      for (const [x, y] of pairs) {
        comparison.add(outcome({ score: { value: x } }), { score: { value: y }, inferenceMs: 6 });
      }
      const report = comparison.report(info, { ...info, version: '2' });
      const mean = (values: readonly number[]): number =>
        values.reduce((sum, value) => sum + value, 0) / values.length;
      const differences = pairs.map(([x, y]) => y - x);
      assert.ok(Math.abs(report.meanDifference - mean(differences)) < 1e-9);
      assert.ok(Math.abs(report.meanAbsoluteDifference - mean(differences.map(Math.abs))) < 1e-9);
      assert.equal(report.largestAbsoluteDifference, Math.max(...differences.map(Math.abs)));
      const [mx, my] = [mean(pairs.map(([x]) => x)), mean(pairs.map(([, y]) => y))];
      const moment = (f: (x: number, y: number) => number): number =>
        mean(pairs.map(([x, y]) => f(x - mx, y - my)));
      const spread = Math.sqrt(moment((x) => x * x) * moment((_, y) => y * y));
      if (spread > 1e-3) assert.ok(Math.abs(report.correlation - moment((x, y) => x * y) / spread) < 1e-6);
      assert.deepEqual(
        [report.compared, report.rewardInferenceMs, report.candidateInferenceMs],
        [pairs.length, 2, 6],
      );
    }),
  );
});

test('failures of either side are counted and are no pair', () => {
  const comparison = compareScores();
  comparison.add(outcome({ score: { value: 1 } }), { error: failure('INTERNAL') });
  comparison.add(outcome({ error: failure('INTERNAL') }), { score: { value: 1 }, inferenceMs: 1 });
  comparison.add(outcome({ score: { value: 1 } }), { error: failure('RESOURCE_EXHAUSTED') });
  comparison.add(outcome({ error: failure('INTERNAL') }), { error: failure('INTERNAL') });
  const report = comparison.report(info, info);
  assert.deepEqual(
    [report.compared, report.candidateErrors, report.rewardErrors, report.skipped],
    [0, 1, 1, 1],
  );
  assert.ok(Number.isNaN(report.meanDifference) && Number.isNaN(report.correlation));
});

test('order: the share of neighbours that both put the same way round', () => {
  const comparison = compareScores();
  for (const [x, y] of [
    [1, 1],
    [2, 3],
    [3, 2],
    [4, 4],
    [4, 5],
  ]) {
    comparison.add(outcome({ score: { value: x ?? 0 } }), { score: { value: y ?? 0 }, inferenceMs: 1 });
  }
  const { sameOrder, identical } = comparison.report(info, info);
  assert.deepEqual([sameOrder, identical], [2 / 3, 2]);
});
