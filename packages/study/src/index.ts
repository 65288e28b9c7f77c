/**
 * `@plumb/study`: what feedback with which algorithm. A matrix of trainings on shared samples of the toybox, and what
 * follows from it. Runs on the packages alone, with what the services train, sample and score with.
 */
export { drawClips } from './draw-clips.ts';
export { finetune } from './finetune.ts';
export { recipeFor } from './recipes.ts';
export type { StudyRecords } from './records.ts';
export { rewardsNeededBy, runStudy } from './run-study.ts';
export type { StudyData, StudyProgress } from './run-study.ts';
export { openScoring } from './score-clips.ts';
export { armId, armsOf, parseStudySpec } from './spec.ts';
export type { StudySpec } from './spec.ts';
export { analyseStudy } from './analyse-study.ts';
export type { ArmResult, Contrast, RewardAgreement, StudyAnalysis } from './analyse-study.ts';
export { cellTable, csvOf } from './cell-table.ts';
export type { CellRow } from './cell-table.ts';
export { studyManifest } from './study-manifest.ts';
