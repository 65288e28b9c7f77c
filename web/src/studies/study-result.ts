import type { ArmResult, CellRow, StudyAnalysis } from '@plumb/study';

/** The content of a study's result.json, which the service has checked. */
export interface StudyResult {
  readonly kind: 'plumb.study-result';
  readonly version: 1;
  readonly name: string;
  readonly headline: string;
  readonly analysis: StudyAnalysis;
  readonly cells: readonly CellRow[];
}

/** @throws SyntaxError for bytes that are no JSON */
export function parseStudyResult(bytes: Uint8Array): StudyResult {
  return JSON.parse(new TextDecoder().decode(bytes)) as StudyResult;
}

/** The comparison matrix: algorithms by kinds of feedback. */
export interface ComparisonMatrix {
  readonly rows: readonly string[];
  readonly columns: readonly string[];
  /** The arm of a row and a column; undefined where the study has none. */
  readonly at: (row: string, column: string) => ArmResult | undefined;
}

/** Feedback of the control, which has none. */
export const noFeedback = 'none';

/** Arranges the arms of a study, in the order in which they were asked for. */
export function comparisonMatrix({ arms }: Pick<StudyAnalysis, 'arms'>): ComparisonMatrix {
  const rowOf = ({ arm: { algorithm, beta } }: ArmResult): string =>
    beta === undefined ? algorithm : `${algorithm}, beta ${beta}`;
  const columnOf = ({ arm: { reward, judgeNoise } }: ArmResult): string =>
    reward === undefined
      ? noFeedback
      : judgeNoise === undefined
        ? reward
        : `${reward}, ${Number((judgeNoise * 100).toFixed(2))}% noise`;
  const key = (row: string, column: string): string => JSON.stringify([row, column]);
  const cells = new Map(arms.map((result) => [key(rowOf(result), columnOf(result)), result]));
  return {
    rows: [...new Set(arms.map(rowOf))],
    columns: [...new Set(arms.map(columnOf))],
    at: (row, column) => cells.get(key(row, column)),
  };
}
