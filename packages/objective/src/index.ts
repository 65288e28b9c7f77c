/**
 * `@plumb/objective`: from labelled samples to a loss. Read `algorithms.ts` first.
 */
export { algorithms } from './algorithms.ts';
export type { Contrast, ForwardRow, PairedRow, UnpairedRow } from './algorithms.ts';
export { mismatchPrompts, planBatches } from './batches.ts';
export type { Batch, BatchPlan, BatchPlanOptions, Drawable } from './batches.ts';
export { dataSetManifestSchema, dataSetMediaType } from './data-set-manifest.ts';
export type { DataSetManifest } from './data-set-manifest.ts';
export {
  forwardProjectionLoss,
  forwardProjection,
  implicitReward,
  dpoLoss,
  reverseProjection,
  squaredErrorPerSample,
  ktoLoss,
} from './losses.ts';
export type { ForwardSettings, Objective, Predictions } from './losses.ts';
export { labelMargin, negativeLogSigmoid, oneMinusSigmoid, pairMargin, referencePoint } from './margins.ts';
export type { Link } from './margins.ts';
export { selectPairs } from './pairs.ts';
export type { PairCandidate, PairSettings, SelectedPair } from './pairs.ts';
export { objectiveSettings, parseObjectiveSettings, settingsSchemas } from './settings.ts';
export type {
  AlgorithmName,
  ObjectiveSettings,
  ObjectiveSettingsInput,
  SettingsOf,
  Shaping,
} from './settings.ts';
export { shapeRewards } from './shaping.ts';
export { freezeTrainingSet, trainingSetHash } from './training-set.ts';
export type {
  AcceptLabel,
  Exclusion,
  LabelledSample,
  PreferencePair,
  SampleCounts,
  TrainingItem,
  TrainingSet,
  TrainingSetStatistics,
  WeightedSample,
} from './training-set.ts';
export {
  effectiveSampleSize,
  exponential,
  identity,
  normaliseWeights,
  shaped,
  threshold,
} from './weights.ts';
export type { CapEffect, LogWeight, NormalisedWeights } from './weights.ts';
