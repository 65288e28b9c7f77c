import { invalidArgument } from '@plumb/kit/errors';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';
import { quantileSorted } from 'simple-statistics';
import type { BootstrapOptions } from './cluster-bootstrap.ts';

/** A statistic with its percentile interval. */
export interface StatisticEstimate {
  readonly value: number;
  readonly lower: number;
  readonly upper: number;
}

/**
 * Any statistic of samples with a percentile interval from resampling whole clusters (prompts), for statistics that are no
 * ratio of sums, such as kappa and the area under the ROC curve. For rates use `acceptance`, whose interval is better.
 *
 * @param clusters samples by prompt
 * @param statistic null where the samples do not define it; resamples that give null are left out
 * @returns null if the samples themselves do not define it
 * @throws PlumbError INVALID_ARGUMENT without clusters
 */
export function bootstrapStatistic<Sample>(
  clusters: readonly (readonly Sample[])[],
  statistic: (samples: readonly Sample[]) => number | null,
  { seed, resamples = 1000, level = 0.95 }: BootstrapOptions,
): StatisticEstimate | null {
  if (clusters.length === 0) throw invalidArgument('clusters', 'are none; label some samples first');
  const value = statistic(clusters.flat());
  if (value === null) return null;
  const random = xoroshiro128plus(seed);
  const values: number[] = [];
  for (let resample = 0; resample < resamples; resample += 1) {
    const picked: Sample[] = [];
    for (let pick = 0; pick < clusters.length; pick += 1) {
      picked.push(...(clusters[Math.floor(((random.next() >>> 0) * clusters.length) / 2 ** 32)] ?? []));
    }
    const one = statistic(picked);
    if (one !== null) values.push(one);
  }
  // No resample defined it: nothing is known of its spread.
  if (values.length === 0) return { value, lower: value, upper: value };
  values.sort((a, b) => a - b);
  return {
    value,
    lower: Math.min(value, quantileSorted(values, (1 - level) / 2)),
    upper: Math.max(value, quantileSorted(values, (1 + level) / 2)),
  };
}
