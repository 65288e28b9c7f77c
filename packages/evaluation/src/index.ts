/**
 * `@plumb/evaluation`: from outcomes to estimates with intervals, comparisons, agreement and a decision. Pure.
 */
export { agreement, cohenKappa, rocAuc, spearman } from './agreement.ts';
export type { Agreement, AgreementReport, LabelledScore } from './agreement.ts';
export { bootstrapStatistic } from './bootstrap-statistic.ts';
export type { StatisticEstimate } from './bootstrap-statistic.ts';
export {
  brierScore,
  calibrate,
  calibrationMappingSchema,
  fitIsotonic,
  fitPlatt,
  recommendThreshold,
} from './calibration.ts';
export type { CalibrationMapping, LabelledConfidence } from './calibration.ts';
export type { BootstrapOptions, ClusteredEstimates } from './cluster-bootstrap.ts';
export type { Estimate } from './estimate.ts';
export { applyGate, decideGate, defaultGate, gateSpec, ruleResultSchema } from './gate.ts';
export type {
  GateCheck,
  GateDecision,
  GateEvidence,
  GateRule,
  GateSpec,
  GateSpecInput,
  RuleResult,
} from './gate.ts';
export { acceptThreshold, compareModels } from './model-comparison.ts';
export type { MeasuredClip, ModelComparison, Signals } from './model-comparison.ts';
export { holm } from './holm.ts';
export { acceptance, meanReward } from './outcomes.ts';
export type { Outcome } from './outcomes.ts';
export { detectOverOptimisation } from './over-optimisation.ts';
export type {
  OverOptimisation,
  OverOptimisationFinding,
  OverOptimisationOptions,
  ProbePoint,
} from './over-optimisation.ts';
export { pairedDifference, pairOutcomes } from './paired-difference.ts';
export type {
  CategoryComparison,
  Comparison,
  PairedOutcome,
  PairedDifference,
  JoinedOutcomes,
  SeededOutcome,
} from './paired-difference.ts';
export { fleissKappa, krippendorffAlpha } from './raters.ts';
export type { LabelMetric } from './raters.ts';
export { reliability } from './reliability.ts';
export type { Reliability, ReliabilityBin } from './reliability.ts';
export { wilsonInterval } from './wilson.ts';
