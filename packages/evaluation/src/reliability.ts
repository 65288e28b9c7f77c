import { invalidArgument } from '@plumb/kit/errors';
import type { LabelledConfidence } from './calibration.ts';
import { wilsonInterval } from './wilson.ts';

/** The samples whose scores lie in one bin. */
export interface ReliabilityBin {
  /** Mean score, 0 to 1. */
  readonly score: number;
  /** Share of them that people accept, with Wilson's 95% interval. */
  readonly accepted: number;
  readonly low: number;
  readonly high: number;
  readonly count: number;
}

/** How far scores are the probabilities that they look like. */
export interface Reliability {
  /** Rising by score; bins without a sample are left out. */
  readonly bins: readonly ReliabilityBin[];
  /** Expected calibration error, 0 to 1: mean distance of score and accepted share over the bins, weighted by samples. */
  readonly error: number;
}

/** Bins of a diagram unless told otherwise. */
const defaultBins = 10;

/**
 * The reliability diagram (Murphy and Winkler 1977) and the expected calibration error (Naeini et al. 2015; Guo et al. 2017,
 * arXiv 1706.04599) over bins of equal width.
 * @param samples at least one, scores from 0 to 1
 * @throws PlumbError INVALID_ARGUMENT
 */
export function reliability(samples: readonly LabelledConfidence[], bins = defaultBins): Reliability {
  if (samples.length === 0) throw invalidArgument('samples', 'is empty; give at least one labelled score');
  if (!(Number.isInteger(bins) && bins >= 1)) {
    throw invalidArgument('bins', `is ${bins}; give a whole number from 1`);
  }
  const bad = samples.findIndex(({ score }) => !(score >= 0 && score <= 1));
  if (bad !== -1) throw invalidArgument(`samples[${bad}].score`, `is ${samples[bad]?.score}; give 0 to 1`);
  // A score of exactly 1 belongs to the last bin.
  const byBin = Map.groupBy(samples, ({ score }) => Math.min(bins - 1, Math.floor(score * bins)));
  const filled = [...byBin]
    .toSorted(([a], [b]) => a - b)
    .map(([, members]): ReliabilityBin => {
      const yes = members.filter(({ truth }) => truth).length;
      const { value, lower, upper } = wilsonInterval(yes, members.length);
      return {
        score: members.reduce((sum, { score }) => sum + score, 0) / members.length,
        accepted: value,
        low: lower,
        high: upper,
        count: members.length,
      };
    });
  const error =
    filled.reduce((sum, { score, accepted, count }) => sum + count * Math.abs(score - accepted), 0) /
    samples.length;
  return { bins: filled, error };
}
