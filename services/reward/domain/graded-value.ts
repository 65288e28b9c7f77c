/**
 * The value of a grade, 0 to 1: in the order of the grades, and 0.5 where the judge's threshold is, as 0.5 is where a value
 * counts as accepted. Linear on either side; at a threshold of 0.5 it is the grade itself.
 *
 * @param grade 0 (worst) to 1 (best)
 * @param threshold the grade, on the same scale, from which the judge accepts
 */
export function gradedValue(grade: number, threshold: number): number {
  if (grade >= threshold) return threshold === 1 ? 1 : 0.5 + (0.5 * (grade - threshold)) / (1 - threshold);
  return (0.5 * grade) / threshold;
}
