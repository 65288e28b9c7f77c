import { invalidArgument } from '@plumb/kit/errors';

/**
 * Holm's step-down correction for several tests (Holm 1979): adjusted p-values that keep the chance of any false
 * rejection below the level they are compared with.
 * @param pValues in [0, 1]
 * @returns adjusted p-values in the order given, each at least its original and at most 1
 */
export function holm(pValues: readonly number[]): number[] {
  for (const [index, p] of pValues.entries()) {
    if (!(p >= 0 && p <= 1)) throw invalidArgument(`pValues[${index}]`, `is ${p}; must be between 0 and 1`);
  }
  const adjusted = pValues.map(() => 1);
  let largest = 0;
  const ascending = [...pValues.entries()].toSorted(([, a], [, b]) => a - b);
  for (const [rank, [index, p]] of ascending.entries()) {
    largest = Math.max(largest, Math.min(1, (pValues.length - rank) * p));
    adjusted[index] = largest;
  }
  return adjusted;
}
