/** `@plumb/charts`: the charts of reports and of the dashboard, as options that either may draw. Runs in a browser too. */
export { drawChart } from './draw-chart.ts';
export type { ChartOptions } from './draw-chart.ts';
export { categories } from './intervals.ts';
export type {
  Acceptance,
  DifferenceInterval,
  NamedCategory,
  RateInterval,
  TrainingPoint,
} from './intervals.ts';
export {
  acceptanceChart,
  anchorChart,
  differenceChart,
  learningCurve,
  lossChart,
  probeChart,
} from './run-charts.ts';
export { overOptimisationChart, reliabilityChart } from './signal-charts.ts';
export type { ReliabilityCurves, ReliabilityPoint, SignalPoint } from './signal-charts.ts';
export { agreementChart, gainChart, goodhartChart, noiseChart, rewardName } from './study-charts.ts';
