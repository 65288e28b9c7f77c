import { invalidArgument } from '@plumb/kit/errors';
import { sampleRankCorrelation, wilcoxonRankSum } from 'simple-statistics';

/** One sample with what a reward or judge says and what is true of it (a human label, or ground truth). */
export interface LabelledScore {
  readonly category: string;
  /** Whether the sample should be accepted. */
  readonly truth: boolean;
  /** The judge's verdict as 0 or 1, its P(accept), or any reward: higher means better. */
  readonly score: number;
}

/** How a score agrees with the truth. Null where the data does not define the statistic: see each. */
export interface Agreement {
  readonly samples: number;
  /** Share of samples whose truth is accept. */
  readonly acceptanceRate: number;
  /** Share of samples on whose side of the threshold the score is right. */
  readonly accuracy: number;
  /** Cohen's kappa of score >= threshold with the truth; null if both are constant. */
  readonly kappa: number | null;
  /** Chance that an accepted sample scores above a rejected one, ties half; null if the truth has one class. */
  readonly rocAuc: number | null;
  /** Spearman's rank correlation of score and truth; null if either is constant. */
  readonly spearman: number | null;
}

export interface AgreementReport {
  readonly overall: Agreement;
  readonly perCategory: Readonly<Record<string, Agreement>>;
}

/**
 * Agreement of a score with the truth, overall and by category.
 * @param options threshold from which a score means accept; 0.5 unless given
 * @throws PlumbError INVALID_ARGUMENT for no samples or a score that is not finite
 */
export function agreement(
  samples: readonly LabelledScore[],
  { threshold = 0.5 }: { readonly threshold?: number } = {},
): AgreementReport {
  if (samples.length === 0) throw invalidArgument('samples', 'is empty; label some samples first');
  const bad = samples.findIndex(({ score }) => !Number.isFinite(score));
  if (bad !== -1) {
    throw invalidArgument(`samples[${bad}].score`, `is ${samples[bad]?.score}; leave failed scores out`);
  }
  const categories = [...Map.groupBy(samples, ({ category }) => category)].toSorted(([a], [b]) =>
    a < b ? -1 : a > b ? 1 : 0,
  );
  return {
    overall: agree(samples, threshold),
    perCategory: Object.fromEntries(
      categories.map(([category, members]) => [category, agree(members, threshold)]),
    ),
  };
}

function agree(samples: readonly LabelledScore[], threshold: number): Agreement {
  const truth = samples.map((sample) => sample.truth);
  const scores = samples.map(({ score }) => score);
  const verdicts = scores.map((score) => score >= threshold);
  return {
    samples: samples.length,
    acceptanceRate: truth.filter(Boolean).length / samples.length,
    accuracy: truth.filter((label, index) => label === verdicts[index]).length / samples.length,
    kappa: cohenKappa(truth, verdicts),
    rocAuc: rocAuc(truth, scores),
    spearman: spearman(truth.map(Number), scores),
  };
}

/**
 * Cohen's kappa of two raters over the same items: agreement beyond chance (Cohen 1960).
 * @param a labels of the first rater, of any number of classes
 * @param b labels of the second rater
 * @returns at most 1; null if both raters gave one and the same label throughout, where chance alone agrees fully
 * @throws PlumbError INVALID_ARGUMENT for lists of unequal length or without items
 */
export function cohenKappa<Label extends string | number | boolean>(
  a: readonly Label[],
  b: readonly Label[],
): number | null {
  checkLengths(a, b);
  const n = a.length;
  const observed = a.filter((label, index) => label === b[index]).length / n;
  const share = (labels: readonly Label[], label: Label): number =>
    labels.filter((one) => one === label).length / n;
  const expected = [...new Set(a)].reduce((sum, label) => sum + share(a, label) * share(b, label), 0);
  return expected === 1 ? null : (observed - expected) / (1 - expected);
}

/**
 * Area under the ROC curve, as the Mann-Whitney statistic: the chance that a positive scores above a negative, ties half.
 * @returns in [0, 1]; null if the truth has one class only
 * @throws PlumbError INVALID_ARGUMENT for lists of unequal length or without items
 */
export function rocAuc(truth: readonly boolean[], scores: readonly number[]): number | null {
  checkLengths(truth, scores);
  const positives = scores.filter((_, index) => truth[index] === true);
  const negatives = scores.filter((_, index) => truth[index] === false);
  if (positives.length === 0 || negatives.length === 0) return null;
  const p = positives.length;
  return (wilcoxonRankSum(positives, negatives) - (p * (p + 1)) / 2) / (p * negatives.length);
}

/**
 * Spearman's rank correlation; ties share their mean rank.
 * @returns in [-1, 1]; null if either list is constant
 * @throws PlumbError INVALID_ARGUMENT for lists of unequal length or without items
 */
export function spearman(x: readonly number[], y: readonly number[]): number | null {
  checkLengths(x, y);
  if (new Set(x).size < 2 || new Set(y).size < 2) return null;
  return sampleRankCorrelation([...x], [...y]);
}

function checkLengths(a: readonly unknown[], b: readonly unknown[]): void {
  if (a.length !== b.length || a.length === 0) {
    throw invalidArgument(
      'b',
      `has ${b.length} items, a has ${a.length}; both must have the same, at least 1`,
    );
  }
}
