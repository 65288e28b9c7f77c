import { join } from 'node:path';
import { dataLoss } from '@plumb/kit/errors';
import { analyseStudy, cellTable, csvOf, studyManifest } from '@plumb/study';
import type { StudyAnalysis, StudyRecords } from '@plumb/study';
import { studyHeadline, studyPage } from '../report/study-page.ts';
import type { FinishedStudy } from './run-study-file.ts';

/** Files that a finished study's folder holds beside its records. */
export const resultFiles = {
  report: 'report.html',
  result: 'result.json',
  cells: 'cells.csv',
  manifest: 'manifest.json',
} as const;

/** What a study found: the content of result.json. */
export interface StudyResult {
  readonly kind: 'plumb.study-result';
  readonly version: 1;
  readonly name: string;
  readonly headline: string;
  readonly analysis: StudyAnalysis;
  readonly cells: ReturnType<typeof cellTable>;
}

/** Analyses a study and writes its files; everything of it follows from the records. */
export async function writeStudyResult(
  { data, threads }: FinishedStudy,
  records: StudyRecords,
): Promise<StudyResult> {
  const analysis = analyseStudy(data);
  const manifest = studyManifest(data, threads);
  const cells = cellTable(data);
  const result: StudyResult = {
    kind: 'plumb.study-result',
    version: 1,
    name: data.spec.name,
    headline: studyHeadline(analysis),
    analysis,
    cells,
  };
  const json = (value: object): string => `${JSON.stringify(value, undefined, 2)}\n`;
  const files = {
    [resultFiles.report]: studyPage(data, analysis, manifest),
    [resultFiles.cells]: csvOf(cells),
    [resultFiles.manifest]: json(manifest),
    // What `study show` reads comes last.
    [resultFiles.result]: json(result),
  };
  for (const [name, text] of Object.entries(files)) await records.write(name, new TextEncoder().encode(text));
  return result;
}

/** @returns undefined while a study has not run to its end */
export async function readStudyResult(
  records: StudyRecords,
  folder: string,
): Promise<StudyResult | undefined> {
  const bytes = await records.read(resultFiles.result);
  if (bytes === undefined) return undefined;
  const result = JSON.parse(new TextDecoder().decode(bytes)) as StudyResult;
  if (result.kind === 'plumb.study-result' && result.version === 1) return result;
  throw dataLoss(`${join(folder, resultFiles.result)} is not what this version writes; run the study again`);
}
