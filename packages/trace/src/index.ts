/** `@plumb/trace`: what the spans of a trace say together. Runs in a browser too; reading span files is `@plumb/trace/span-files`. */
export { criticalPath, traceTrees } from './critical-path.ts';
export type { PathSegment, TraceNode } from './critical-path.ts';
export { stageOf, stages } from './stages.ts';
export type { Stage } from './stages.ts';
export { criticalSteps, seconds, shortName } from './span-text.ts';
export { summarise } from './summary.ts';
export type { Interval, StageTime, TraceSummary } from './summary.ts';
