/** From judged and labelled clips to what a judge is worth. Pure. */

import {
  bootstrapStatistic,
  brierScore,
  calibrate,
  cohenKappa,
  fitIsotonic,
  fitPlatt,
  recommendThreshold,
  reliability,
  rocAuc,
  wilsonInterval,
} from '@plumb/evaluation';
import type {
  CalibrationMapping,
  LabelledConfidence,
  Reliability,
  StatisticEstimate,
} from '@plumb/evaluation';

/** One clip that was judged. */
export interface JudgedLabel {
  readonly prompt: string;
  readonly category: string;
  /** What people say. */
  readonly truth: boolean;
  /** What the judge decided. */
  readonly accept: boolean;
  /** The judge's score before calibration, 0 to 1. */
  readonly score: number;
  /** How the clip fails, by its label. */
  readonly failureMode: string | undefined;
}

/** Agreement with the labels; null where the clips do not define it. Intervals are 95%, resampled by prompt. */
export interface AgreementRow {
  readonly clips: number;
  readonly accuracy: StatisticEstimate;
  readonly kappa: StatisticEstimate | null;
  readonly rocAuc: StatisticEstimate | null;
}

/** What a judge is worth. */
export interface JudgeReport {
  readonly judge: string;
  readonly overall: AgreementRow;
  readonly perCategory: Readonly<Record<string, AgreementRow>>;
  /** Share of the clips that fail so which the judge rejects; under `right`, of the good clips which it accepts. */
  readonly perFailureMode: Readonly<Record<string, StatisticEstimate & { readonly clips: number }>>;
  /**
   * Threshold for the calibrated P(accept), chosen on all clips, with what such a threshold gives on prompts that it was not
   * chosen on: shares of the good clips that are accepted and of the bad ones that are rejected.
   */
  readonly recommended: {
    readonly threshold: number;
    readonly sensitivity: StatisticEstimate | null;
    readonly specificity: StatisticEstimate | null;
  };
  /** Mean squared error of P(accept): of the score as it is, and of the mapping on prompts that it was not fitted to. */
  readonly brier: { readonly before: number; readonly after: number };
  /** Of the same two: how far they are the probabilities that they look like. */
  readonly reliability: { readonly before: Reliability; readonly after: Reliability };
  /** Fitted to all clips. */
  readonly mapping: CalibrationMapping;
  /** Clips without a verdict, which are in no figure. */
  readonly failed: number;
}

export type CalibrationMethod = CalibrationMapping['method'];

const folds = 5;

/**
 * @param failed clips that could not be judged
 * @throws PlumbError INVALID_ARGUMENT if the labels are all the same
 */
export function reportOn(
  judge: string,
  labels: readonly JudgedLabel[],
  method: CalibrationMethod,
  failed: number,
): JudgeReport {
  const fit = method === 'platt' ? fitPlatt : fitIsotonic;
  const mapping = fit(labels);
  const calibrated = labels.map(({ score, truth }) => ({ score: calibrate(mapping, score), truth }));
  const heldOut = crossValidated(labels, fit);
  const byMode = Map.groupBy(labels, ({ truth, failureMode }) =>
    truth ? 'right' : (failureMode ?? 'not said'),
  );
  const byCategory = Map.groupBy(labels, ({ category }) => category);
  return {
    judge,
    overall: agreementOf(labels),
    perCategory: Object.fromEntries(
      [...byCategory].toSorted(byKey).map(([category, members]) => [category, agreementOf(members)]),
    ),
    perFailureMode: Object.fromEntries(
      [...byMode].toSorted(byKey).map(([mode, members]) => {
        const seen = members.filter(({ truth, accept }) => truth === accept).length;
        const { value, lower, upper } = wilsonInterval(seen, members.length);
        return [mode, { value, lower, upper, clips: members.length }];
      }),
    ),
    recommended: {
      threshold: recommendThreshold(calibrated).threshold,
      sensitivity: shareToldRight(heldOut, true),
      specificity: shareToldRight(heldOut, false),
    },
    brier: { before: brierScore(labels), after: brierScore(heldOut) },
    reliability: { before: reliability(labels), after: reliability(heldOut) },
    mapping,
    failed,
  };
}

function byKey([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function agreementOf(labels: readonly JudgedLabel[]): AgreementRow {
  const clusters = [...Map.groupBy(labels, ({ prompt }) => prompt).values()];
  const estimate = (statistic: (some: readonly JudgedLabel[]) => number | null): StatisticEstimate | null =>
    bootstrapStatistic(clusters, statistic, { seed: 1 });
  const truths = (some: readonly JudgedLabel[]): boolean[] => some.map(({ truth }) => truth);
  const right = labels.filter(({ truth, accept }) => truth === accept).length;
  const accuracy = estimate(
    (some) => some.filter(({ truth, accept }) => truth === accept).length / some.length,
  );
  return {
    clips: labels.length,
    // Where all are right or all are wrong, resampling says nothing.
    accuracy:
      accuracy === null || right === 0 || right === labels.length
        ? wilsonInterval(right, labels.length)
        : accuracy,
    kappa: estimate((some) =>
      cohenKappa(
        truths(some),
        some.map(({ accept }) => accept),
      ),
    ),
    rocAuc: estimate((some) =>
      rocAuc(
        truths(some),
        some.map(({ score }) => score),
      ),
    ),
  };
}

/** A clip with the P(accept) and the decision of a mapping and a threshold that have not seen its prompt. */
type HeldOutLabel = LabelledConfidence & { readonly prompt: string; readonly accept: boolean };

/** Cross-validated by prompt: mapping and threshold are chosen on the other prompts. */
function crossValidated(labels: readonly JudgedLabel[], fit: typeof fitPlatt): readonly HeldOutLabel[] {
  const prompts = [...new Set(labels.map(({ prompt }) => prompt))].toSorted();
  const foldOf = new Map(prompts.map((prompt, at) => [prompt, at % folds]));
  const predicted: HeldOutLabel[] = [];
  for (let fold = 0; fold < folds; fold += 1) {
    const train = labels.filter(({ prompt }) => foldOf.get(prompt) !== fold);
    const test = labels.filter(({ prompt }) => foldOf.get(prompt) === fold);
    // A fold whose rest has labels of one kind only teaches nothing; its share of accepted clips is all there is.
    const both = new Set(train.map(({ truth }) => truth)).size === 2;
    const rate = train.filter(({ truth }) => truth).length / Math.max(1, train.length);
    const mapping = both ? fit(train) : undefined;
    const confidence = (score: number): number => (mapping === undefined ? rate : calibrate(mapping, score));
    const threshold = both
      ? recommendThreshold(train.map(({ score, truth }) => ({ score: confidence(score), truth }))).threshold
      : 0.5;
    for (const { prompt, score, truth } of test) {
      predicted.push({ prompt, truth, score: confidence(score), accept: confidence(score) >= threshold });
    }
  }
  return predicted;
}

/** Share of the clips with this label that get it, resampled by prompt; null where there are none. */
function shareToldRight(labels: readonly HeldOutLabel[], truth: boolean): StatisticEstimate | null {
  const clusters = [...Map.groupBy(labels, ({ prompt }) => prompt).values()];
  const estimate = bootstrapStatistic(
    clusters,
    (some) => {
      const these = some.filter((label) => label.truth === truth);
      return these.length === 0 ? null : these.filter(({ accept }) => accept === truth).length / these.length;
    },
    { seed: 1 },
  );
  if (estimate === null || (estimate.value > 0 && estimate.value < 1)) return estimate;
  // Where all are right or all are wrong, resampling says nothing.
  const clips = labels.filter((label) => label.truth === truth).length;
  return wilsonInterval(clips * estimate.value, clips);
}
