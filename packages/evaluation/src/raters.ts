import { invalidArgument } from '@plumb/kit/errors';

/**
 * Fleiss' kappa: agreement beyond chance of a fixed number of raters, who need not be the same ones for every subject
 * (Fleiss 1971).
 * @param counts [subjects][categories]: how many raters put the subject in the category; every row has the same sum >= 2
 * @returns at most 1; null if every rating is in one category
 * @throws PlumbError INVALID_ARGUMENT
 */
export function fleissKappa(counts: readonly (readonly number[])[]): number | null {
  const raters = (counts[0] ?? []).reduce((sum, count) => sum + count, 0);
  if (counts.length === 0 || raters < 2) {
    throw invalidArgument('counts', `has ${counts.length} subjects and ${raters} raters; needs 1 and 2`);
  }
  const width = counts[0]?.length ?? 0;
  for (const [index, row] of counts.entries()) {
    const sum = row.reduce((total, count) => total + count, 0);
    if (sum !== raters || row.length !== width) {
      throw invalidArgument(
        `counts[${index}]`,
        `has ${sum} ratings in ${row.length} categories; every subject needs ${raters} in ${width} (for gaps use krippendorffAlpha)`,
      );
    }
  }
  const observed =
    counts.reduce(
      (sum, row) =>
        sum + row.reduce((pairs, count) => pairs + count * (count - 1), 0) / (raters * (raters - 1)),
      0,
    ) / counts.length;
  let expected = 0;
  for (let category = 0; category < width; category++) {
    const share = counts.reduce((sum, row) => sum + (row[category] ?? 0), 0) / (counts.length * raters);
    expected += share ** 2;
  }
  return expected === 1 ? null : (observed - expected) / (1 - expected);
}

/** How far two labels are apart: `nominal` for accept and reject, `ordinal` for grades, `interval` for numbers. */
export type LabelMetric = 'nominal' | 'ordinal' | 'interval';

/**
 * Krippendorff's alpha: agreement of any number of raters with gaps, 1 - observed / expected disagreement
 * (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").
 * @param units the ratings each unit got, gaps left out; units with fewer than two ratings are not used
 * @returns at most 1; null if all usable ratings are equal, or there are none
 */
export function krippendorffAlpha(units: readonly (readonly number[])[], metric: LabelMetric): number | null {
  const usable = units.filter((ratings) => ratings.length >= 2);
  const labels = [...new Set(usable.flat())].toSorted((a, b) => a - b);
  const position = new Map(labels.map((label, index) => [label, index]));
  const size = labels.length;
  const coincidences = new Float64Array(size * size);
  for (const ratings of usable) {
    for (const [i, first] of ratings.entries()) {
      for (const [j, second] of ratings.entries()) {
        if (i === j) continue;
        const cell = (position.get(first) ?? 0) * size + (position.get(second) ?? 0);
        coincidences[cell] = (coincidences[cell] ?? 0) + 1 / (ratings.length - 1);
      }
    }
  }
  const totals = labels.map((_, row) =>
    coincidences.subarray(row * size, (row + 1) * size).reduce((sum, value) => sum + value, 0),
  );
  const n = totals.reduce((sum, value) => sum + value, 0);
  const distance = (a: number, b: number): number => {
    if (metric === 'nominal') return a === b ? 0 : 1;
    if (metric === 'interval') return ((labels[a] ?? 0) - (labels[b] ?? 0)) ** 2;
    const between = totals.slice(Math.min(a, b), Math.max(a, b) + 1).reduce((sum, value) => sum + value, 0);
    return (between - ((totals[a] ?? 0) + (totals[b] ?? 0)) / 2) ** 2;
  };
  let observed = 0;
  let expected = 0;
  for (let a = 0; a < size; a++) {
    for (let b = 0; b < size; b++) {
      observed += (coincidences[a * size + b] ?? 0) * distance(a, b);
      expected += (totals[a] ?? 0) * (totals[b] ?? 0) * distance(a, b);
    }
  }
  return expected === 0 ? null : 1 - ((n - 1) * observed) / expected;
}
