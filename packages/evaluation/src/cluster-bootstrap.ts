import { failedPrecondition, invalidArgument } from '@plumb/kit/errors';
import jStat from 'jstat';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';
import { quantileSorted } from 'simple-statistics';
import type { Estimate } from './estimate.ts';
import { wilsonInterval } from './wilson.ts';

/** How intervals are made. Equal options and data give equal intervals. */
export interface BootstrapOptions {
  /** 32-bit integer. */
  readonly seed: number;
  /** Resamples, at least 200; 10,000 unless given. Fewer make the ends of the interval noisier. */
  readonly resamples?: number;
  /** Coverage in (0, 1); 0.95 unless given. */
  readonly level?: number;
}

/** One prompt: what was summed over its samples. */
export interface Cluster {
  readonly category: string;
  /** One a column: the numerator of that column's ratio. */
  readonly sums: readonly number[];
  /** The denominator: samples, or 1 if every prompt is to count the same. */
  readonly count: number;
  /** Samples behind the cluster, for the record. */
  readonly samples: number;
}

/** Ratios of sums over prompts, with intervals, for all categories together and for each. */
export interface ClusteredEstimates {
  readonly overall: Estimate;
  readonly perCategory: Readonly<Record<string, Estimate>>;
}

/** What the values of a column can be: decides what is said where resampling cannot say anything. */
export type ColumnKind = 'rate' | 'difference-of-rates' | 'unbounded';

/**
 * Cluster bootstrap: prompts are resampled with replacement, within their category, as the categories are fixed by
 * design and the prompts stand for others like them. All columns and categories use the same resamples.
 *
 * The interval is the percentile interval with expanded ends (Hesterberg 2015, arXiv 1411.5279, section 5.3): with few
 * prompts the plain one is too narrow by sqrt((n - 1) / n) and by using normal for t quantiles. n - 1 is pooled over
 * categories for the overall estimate.
 *
 * Where resampling cannot say anything: prompts of a rate that all agree on 0 or on 1 get Wilson's interval with the
 * prompts as trials; a single prompt gets the whole range of its column.
 *
 * @returns one entry a column
 * @throws PlumbError FAILED_PRECONDITION for no clusters, or for a single prompt in an unbounded column
 */
export function clusterBootstrap(
  clusters: readonly Cluster[],
  columns: readonly ColumnKind[],
  options: BootstrapOptions,
): ClusteredEstimates[] {
  const { seed, resamples = 10_000, level = 0.95 } = options;
  if (!Number.isSafeInteger(resamples) || resamples < 200) {
    throw invalidArgument('resamples', `is ${resamples}; must be a whole number of at least 200`);
  }
  if (!(level > 0 && level < 1)) throw invalidArgument('level', `is ${level}; must be between 0 and 1`);
  if (clusters.length === 0) {
    throw failedPrecondition('outcomes: there are none; score the held-out samples first');
  }
  const strata = [...Map.groupBy(clusters, ({ category }) => category)].toSorted(([a], [b]) =>
    a < b ? -1 : a > b ? 1 : 0,
  );
  const draws = resample(
    strata.map(([, members]) => members),
    columns.length,
    seed,
    resamples,
  );
  return columns.map((kind, column) => {
    const overall = estimate(
      strata.map(([, members]) => members),
      column,
      kind,
      draws.overall[column] ?? new Float64Array(),
      level,
    );
    const perCategory = strata.map(([category, members], stratum) => {
      const values = draws.perStratum[stratum]?.[column] ?? new Float64Array();
      return [category, estimate([members], column, kind, values, level)] as const;
    });
    return { overall, perCategory: Object.fromEntries(perCategory) };
  });
}

interface Draws {
  /** [column][resample] */
  readonly overall: readonly Float64Array[];
  /** [stratum][column][resample] */
  readonly perStratum: readonly (readonly Float64Array[])[];
}

function resample(
  strata: readonly (readonly Cluster[])[],
  width: number,
  seed: number,
  resamples: number,
): Draws {
  const random = xoroshiro128plus(seed);
  const blank = (): Float64Array[] => Array.from({ length: width }, () => new Float64Array(resamples));
  const overall = blank();
  const overallCounts = new Float64Array(resamples);
  const perStratum = strata.map((members) => {
    const size = members.length;
    const columns = blank();
    const counts = Float64Array.from(members, ({ count }) => count);
    // Every resample's picks are drawn once, so that columns share them and are compared on equal prompts.
    const picks = new Uint32Array(resamples * size);
    const resampledCounts = new Float64Array(resamples);
    for (let r = 0; r < resamples; r++) {
      let count = 0;
      for (let k = r * size; k < (r + 1) * size; k++) {
        // The upper bits of a 32-bit draw times the size: unbiased to one part in 2^32 / size.
        const pick = Math.floor(((random.next() >>> 0) * size) / 2 ** 32);
        picks[k] = pick;
        count += counts[pick] ?? 0;
      }
      resampledCounts[r] = count;
      overallCounts[r] = (overallCounts[r] ?? 0) + count;
    }
    for (let column = 0; column < width; column++) {
      const values = columns[column] ?? counts;
      const all = overall[column] ?? counts;
      const sums = Float64Array.from(members, (member) => member.sums[column] ?? 0);
      for (let r = 0; r < resamples; r++) {
        let total = 0;
        for (let k = r * size; k < (r + 1) * size; k++) total += sums[picks[k] ?? 0] ?? 0;
        values[r] = total / (resampledCounts[r] ?? 1);
        all[r] = (all[r] ?? 0) + total;
      }
      values.sort();
    }
    return columns;
  });
  for (const values of overall) {
    for (let r = 0; r < resamples; r++) values[r] = (values[r] ?? 0) / (overallCounts[r] ?? 1);
    values.sort();
  }
  return { overall, perStratum };
}

function estimate(
  strata: readonly (readonly Cluster[])[],
  column: number,
  kind: ColumnKind,
  sorted: Float64Array,
  level: number,
): Estimate {
  const members = strata.flat();
  const clusters = members.length;
  const samples = members.reduce((sum, member) => sum + member.samples, 0);
  const count = members.reduce((sum, member) => sum + member.count, 0);
  const value = members.reduce((sum, member) => sum + (member.sums[column] ?? 0), 0) / count;
  const base = { value, level, clusters, samples };
  if (kind === 'rate' && (value === 0 || value === 1)) {
    const { lower, upper } = wilsonInterval(value * clusters, clusters, level);
    return { ...base, lower, upper, method: 'wilson' };
  }
  // Prompts that are alone in their category say nothing about spread; the others speak for the degrees of freedom.
  const informative = strata.filter((stratum) => stratum.length > 1);
  const degreesOfFreedom = informative.reduce((sum, stratum) => sum + stratum.length - 1, 0);
  if (degreesOfFreedom === 0) {
    if (kind === 'unbounded') {
      throw failedPrecondition(
        `outcomes: ${clusters === 1 ? 'a category has' : 'all categories have'} a single prompt, so there is no interval; ` +
          'use at least two prompts a category',
      );
    }
    return { ...base, lower: kind === 'rate' ? 0 : -1, upper: 1, method: 'cluster-bootstrap' };
  }
  const size = informative.reduce((sum, stratum) => sum + stratum.length, 0);
  const z = Math.sqrt(size / degreesOfFreedom) * jStat.studentt.inv((1 + level) / 2, degreesOfFreedom);
  const tail = jStat.normal.cdf(-z, 0, 1);
  const values = Array.from(sorted);
  return {
    ...base,
    lower: quantileSorted(values, tail),
    upper: quantileSorted(values, 1 - tail),
    method: 'cluster-bootstrap',
  };
}
