import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import type { StudyProgress } from '@plumb/study';
import { listenForInterruption } from '../interrupt.ts';
import { durationText } from '@plumb/charts/numbers';
import { runStudyFile } from './run-study-file.ts';
import type { FinishedStudy } from './run-study-file.ts';
import { recordsIn, requireStudy, studiesIn } from './study-folder.ts';
import { readStudyResult, resultFiles, writeStudyResult } from './study-result.ts';
import type { StudyResult } from './study-result.ts';
import { studyText } from './study-text.ts';

/** Options of every subcommand. */
export interface StudyOptions {
  /** The folder of studies. */
  readonly studies: string;
  readonly json?: true;
}

/** Steps between two lines about a training under way. */
const stepsPerLine = 50;

/** `plumb study run`. @returns the exit code */
export async function runStudyCommand(
  file: string,
  options: StudyOptions & { readonly threads?: number },
): Promise<number> {
  const interruption = listenForInterruption({
    kill: () => {},
    notice: () => {
      say('stopping; the same command goes on from here');
    },
  });
  try {
    await runStudyFile(resolve(file), {
      studies: resolve(options.studies),
      threads: options.threads ?? availableParallelism(),
      signal: interruption.signal,
      onProgress: progressLines(),
      async finish(study: FinishedStudy) {
        const result = await writeStudyResult(study, recordsIn(study.folder));
        say(
          `${study.data.cells.length} cells, ${durationText(study.seconds)}: ${join(study.folder, resultFiles.report)}`,
        );
        print(result, study.folder, options);
      },
    });
    return 0;
  } catch (error) {
    if (interruption.exitCode === undefined) throw error;
    return interruption.exitCode;
  } finally {
    interruption.close();
  }
}

/** `plumb study list`. */
export async function listStudies(options: StudyOptions): Promise<number> {
  const studies = [];
  for (const name of await studiesIn(options.studies)) {
    const folder = resolve(options.studies, name);
    const result = await readStudyResult(recordsIn(folder), folder);
    studies.push({ name, folder, cells: result?.cells.length ?? null, headline: result?.headline ?? null });
  }
  if (options.json === true) process.stdout.write(`${JSON.stringify({ studies })}\n`);
  else if (studies.length === 0) process.stdout.write(`No studies in ${resolve(options.studies)}.\n`);
  else {
    for (const { name, cells, headline } of studies) {
      process.stdout.write(
        `${name}  ${headline === null ? 'has not run to its end' : `${cells} cells. ${headline}.`}\n`,
      );
    }
  }
  return 0;
}

/** `plumb study show` and `plumb study report`. */
export async function showStudy(
  name: string,
  options: StudyOptions,
  what: 'table' | 'report',
): Promise<number> {
  const folder = await requireStudy(options.studies, name);
  const result = await readStudyResult(recordsIn(folder), folder);
  if (result === undefined) {
    say(`study ${name} has not run to its end; \`plumb study run\` goes on with it`);
    return 1;
  }
  if (what === 'report' && options.json !== true) {
    process.stdout.write(`${join(folder, resultFiles.report)}\n`);
  } else print(result, folder, options);
  return 0;
}

function print(result: StudyResult, folder: string, { json }: StudyOptions): void {
  process.stdout.write(
    json === true
      ? `${JSON.stringify({ ...result, folder, report: join(folder, resultFiles.report) })}\n`
      : `${studyText(result, process.stdout)}\n`,
  );
}

function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** A line for all that begins, and for some steps of a training. */
function progressLines(): (progress: StudyProgress) => void {
  const started = performance.now();
  let last = '';
  return ({ done, cells, doing, step, steps }) => {
    const now =
      step === undefined || step % stepsPerLine !== 0 ? doing : `${doing}, step ${step} of ${steps}`;
    if (now === last || (step !== undefined && step % stepsPerLine !== 0)) return;
    last = now;
    say(`  ${durationText((performance.now() - started) / 1000)}, ${done} of ${cells} cells: ${now}`);
  };
}
