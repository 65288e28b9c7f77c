import { invalidArgument } from '@plumb/kit/errors';
import { z } from 'zod';

/** A judge's score with what people say of the clip. */
export interface LabelledConfidence {
  /** 0 to 1; higher means more likely accepted. */
  readonly score: number;
  readonly truth: boolean;
}

const share = z.number().min(0).max(1);

/**
 * From a judge's score to the probability that a person accepts.
 *
 * platt: 1 / (1 + exp(-(slope * score + intercept))). isotonic: steps, never falling; between two steps the value runs
 * straight from one to the other.
 */
export const calibrationMappingSchema = z.discriminatedUnion('method', [
  z.strictObject({ method: z.literal('platt'), slope: z.number(), intercept: z.number() }),
  z
    .strictObject({
      method: z.literal('isotonic'),
      /** Scores, rising. */
      scores: z.array(share).min(1),
      /** Probabilities at those scores, never falling. */
      probabilities: z.array(share).min(1),
    })
    .refine(
      ({ scores, probabilities }) =>
        scores.length === probabilities.length &&
        scores.every((score, at) => at === 0 || score > (scores[at - 1] ?? 0)) &&
        probabilities.every((value, at) => at === 0 || value >= (probabilities[at - 1] ?? 0)),
      'needs as many probabilities as scores, scores that rise and probabilities that never fall',
    ),
]);

export type CalibrationMapping = z.output<typeof calibrationMappingSchema>;

/** Probability for a score, 0 to 1. */
export function calibrate(mapping: CalibrationMapping, score: number): number {
  if (mapping.method === 'platt') return logistic(mapping.slope * score + mapping.intercept);
  const { scores, probabilities } = mapping;
  const after = scores.findIndex((known) => known >= score);
  if (after === -1) return probabilities.at(-1) ?? 0;
  const [left, right] = [probabilities[after - 1], probabilities[after] ?? 0];
  if (left === undefined) return right;
  const [from, to] = [scores[after - 1] ?? 0, scores[after] ?? 0];
  return left + ((score - from) / (to - from)) * (right - left);
}

/**
 * Platt's scaling with his smoothed targets, which keep the fit finite where scores separate the labels (Platt 1999,
 * "Probabilistic Outputs for Support Vector Machines", section 2.2), by Newton's method.
 *
 * @throws PlumbError INVALID_ARGUMENT without labels of both kinds
 */
export function fitPlatt(samples: readonly LabelledConfidence[]): CalibrationMapping {
  const { accepted, rejected } = bothKinds(samples);
  const targets = { true: (accepted + 1) / (accepted + 2), false: 1 / (rejected + 2) };
  const ridge = 1e-6;
  let slope = 0;
  let intercept = Math.log((accepted + 1) / (rejected + 1));
  for (let step = 0; step < 100; step += 1) {
    // Gradient and curvature of the cross entropy. The ridge keeps the slope finite where all scores are (nearly) equal.
    let [g0, g1, h00, h01, h11] = [ridge * slope, 0, ridge, 0, 1e-12];
    for (const { score, truth } of samples) {
      const p = logistic(slope * score + intercept);
      const error = p - (truth ? targets.true : targets.false);
      const weight = p * (1 - p);
      g0 += error * score;
      g1 += error;
      h00 += weight * score * score;
      h01 += weight * score;
      h11 += weight;
    }
    const determinant = h00 * h11 - h01 * h01;
    const steps = [(h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant] as const;
    slope -= steps[0];
    intercept -= steps[1];
    if (Math.abs(steps[0]) + Math.abs(steps[1]) < 1e-10) break;
  }
  return { method: 'platt', slope, intercept };
}

/**
 * Isotonic regression by pooling adjacent violators (Ayer et al. 1955; Zadrozny and Elkan 2002 for classifiers).
 *
 * @throws PlumbError INVALID_ARGUMENT without labels of both kinds
 */
export function fitIsotonic(samples: readonly LabelledConfidence[]): CalibrationMapping {
  bothKinds(samples);
  const byScore = [...Map.groupBy(samples, ({ score }) => score)].toSorted(([a], [b]) => a - b);
  const pools: { scores: number[]; accepted: number; count: number }[] = [];
  for (const [score, members] of byScore) {
    pools.push({
      scores: [score],
      accepted: members.filter(({ truth }) => truth).length,
      count: members.length,
    });
    for (;;) {
      const [before, last] = pools.slice(-2);
      if (before === undefined || last === undefined) break;
      if (before.accepted / before.count < last.accepted / last.count) break;
      pools.splice(-2, 2, {
        scores: [...before.scores, ...last.scores],
        accepted: before.accepted + last.accepted,
        count: before.count + last.count,
      });
    }
  }
  const knots = pools.flatMap(({ scores, accepted, count }) => {
    const ends = scores.length === 1 ? scores : [scores[0] ?? 0, scores.at(-1) ?? 0];
    return ends.map((score) => ({ score, probability: accepted / count }));
  });
  return {
    method: 'isotonic',
    scores: knots.map(({ score }) => score),
    probabilities: knots.map(({ probability }) => probability),
  };
}

/** Mean squared distance of probability and label (Brier 1950): 0 is perfect, always saying 0.5 gives 0.25. */
export function brierScore(samples: readonly LabelledConfidence[]): number {
  return samples.reduce((sum, { score, truth }) => sum + (score - Number(truth)) ** 2, 0) / samples.length;
}

/**
 * The threshold from which a score should mean accept: the one with the highest Youden index, sensitivity + specificity
 * - 1, which does not depend on how many of the clips are good. It lies halfway between two scores that occur; among equals
 * the one nearest to 0.5 is taken.
 *
 * @throws PlumbError INVALID_ARGUMENT without labels of both kinds
 */
export function recommendThreshold(samples: readonly LabelledConfidence[]): {
  readonly threshold: number;
  readonly sensitivity: number;
  readonly specificity: number;
} {
  const { accepted, rejected } = bothKinds(samples);
  const scores = [...new Set(samples.map(({ score }) => score))].toSorted((a, b) => a - b);
  const candidates = scores.slice(1).map((score, at) => (score + (scores[at] ?? 0)) / 2);
  let best = { threshold: 0.5, sensitivity: 0, specificity: 0 };
  let bestIndex = -Infinity;
  for (const threshold of [0.5, ...candidates.toSorted((a, b) => Math.abs(a - 0.5) - Math.abs(b - 0.5))]) {
    const passed = samples.filter(({ score }) => score >= threshold);
    const right = passed.filter(({ truth }) => truth).length;
    const sensitivity = right / accepted;
    const specificity = 1 - (passed.length - right) / rejected;
    // A gain of less than rounding is none.
    if (sensitivity + specificity > bestIndex + 1e-12) {
      bestIndex = sensitivity + specificity;
      best = { threshold, sensitivity, specificity };
    }
  }
  return best;
}

function bothKinds(samples: readonly LabelledConfidence[]): { accepted: number; rejected: number } {
  const bad = samples.findIndex(({ score }) => !(score >= 0 && score <= 1));
  if (bad !== -1) throw invalidArgument(`samples[${bad}].score`, `is ${samples[bad]?.score}; give 0 to 1`);
  const accepted = samples.filter(({ truth }) => truth).length;
  const rejected = samples.length - accepted;
  if (accepted === 0 || rejected === 0) {
    throw invalidArgument(
      'samples',
      `have ${accepted} accepted and ${rejected} rejected clips; label some of both kinds`,
    );
  }
  return { accepted, rejected };
}

function logistic(x: number): number {
  return x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x));
}
