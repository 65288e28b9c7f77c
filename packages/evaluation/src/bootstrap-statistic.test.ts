import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bootstrapStatistic } from './bootstrap-statistic.ts';

const mean = (values: readonly number[]): number | null =>
  values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0) / values.length;

test('the interval of a mean is that of the normal distribution, and whole clusters widen it', () => {
  const values = Array.from({ length: 400 }, (_, at) => (at % 20) / 19);
  const apart = bootstrapStatistic(
    values.map((value) => [value]),
    mean,
    { seed: 1, resamples: 4000 },
  );
  const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - 0.5) ** 2, 0) / 400);
  assert.ok(apart !== null && Math.abs(apart.value - 0.5) < 1e-12);
  assert.ok(Math.abs(apart.upper - apart.lower - (2 * 1.96 * deviation) / 20) < 0.006);
  const together = Map.groupBy(values, (value) => value);
  const clustered = bootstrapStatistic([...together.values()], mean, { seed: 1, resamples: 4000 });
  assert.ok(clustered !== null && clustered.upper - clustered.lower > 3 * (apart.upper - apart.lower));
});

test('equal seeds give equal intervals, and what is undefined stays so', () => {
  const clusters = [[1, 0], [0], [1]];
  const options = { seed: 3, resamples: 200 };
  assert.deepEqual(bootstrapStatistic(clusters, mean, options), bootstrapStatistic(clusters, mean, options));
  assert.equal(
    bootstrapStatistic(clusters, () => null, options),
    null,
  );
  assert.throws(() => bootstrapStatistic([], mean, options), /label some samples first/);
});
