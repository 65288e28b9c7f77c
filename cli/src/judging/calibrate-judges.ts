import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { invalidArgument, notFound } from '@plumb/kit/errors';
import type { RpcClient } from '@plumb/kit/rpc';
import { JudgeMode } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type { JudgeInfo, JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { stringify } from 'yaml';
import { calibrationPage } from './calibration-page.ts';
import { reportOn } from './calibration-report.ts';
import type { CalibrationMethod, JudgeReport } from './calibration-report.ts';
import { judgeLabels } from './judge-labels.ts';
import { readLabels, toyboxLabels } from './labelled-set.ts';

/** What `plumb judge calibrate` is told. */
export interface CalibrateOptions {
  /** File of labels; without it clips of the toybox are taken. */
  readonly labels: string | undefined;
  /** Number of toybox clips. */
  readonly toybox: number;
  readonly seed: number;
  readonly judges: readonly string[];
  readonly method: CalibrationMethod;
  /** Folder for the page and the calibrations. */
  readonly output: string;
}

/** What came out: reports, and the files that were written. */
export interface Calibrated {
  readonly reports: readonly JudgeReport[];
  readonly page: string;
  readonly calibrations: Readonly<Record<string, string>>;
}

/**
 * Judges a labelled set with every judge, one after the other, and writes a page and a calibration for each.
 *
 * @throws PlumbError JUDGE_UNKNOWN, INVALID_ARGUMENT for labels that are wrong, and what judging throws
 */
export async function calibrateJudges(
  client: RpcClient<typeof JudgeService>,
  options: CalibrateOptions,
  notice: (line: string) => void,
  signal: AbortSignal | undefined,
): Promise<Calibrated> {
  const { judges: known } = await client.listJudges({});
  const infos = options.judges.map((name) => usable(known, name));
  const set =
    options.labels === undefined
      ? await toyboxLabels(options.toybox, options.seed)
      : await readLabels(options.labels);
  await mkdir(options.output, { recursive: true });
  const reports: JudgeReport[] = [];
  const calibrations: Record<string, string> = {};
  for (const info of infos) {
    notice(`${info.name} judges ${set.clips.length} clips ...`);
    const judged = await judgeLabels(client, info, set, signal, (place, error) => {
      notice(`${info.name}: clip ${place + 1} has no verdict: ${error.message}`);
    });
    notice(
      `${info.name}: ${judged.tokens} tokens, ${judged.cost.toFixed(4)} ${judged.currency} by its price list`,
    );
    const report = reportOn(info.name, judged.labels, options.method, judged.failed);
    reports.push(report);
    if (info.members.length > 0) continue;
    const path = join(options.output, `${info.name}.calibration.yaml`);
    await writeFile(
      path,
      stringify({
        kind: 'plumb.judge-calibration',
        version: 1,
        judge: info.name,
        askHash: info.askHash,
        votes: info.votes,
        labels: set.sha256,
        samples: judged.labels.length,
        fittedAt: new Date().toISOString(),
        recommendedThreshold: report.recommended.threshold,
        mapping: report.mapping,
      }),
    );
    calibrations[info.name] = path;
  }
  const page = join(options.output, 'judges.html');
  await writeFile(page, calibrationPage(reports, set));
  return { reports, page, calibrations };
}

function usable(known: readonly JudgeInfo[], name: string): JudgeInfo {
  const info = known.find((candidate) => candidate.name === name);
  if (info === undefined) {
    throw notFound('judge', name, {
      reason: 'JUDGE_UNKNOWN',
      fix: `known are: ${known.map((candidate) => candidate.name).join(', ')}`,
    });
  }
  if (info.mode === JudgeMode.COMPARE) {
    throw invalidArgument('--judge', `'${name}' compares clips; labels say accept or reject`);
  }
  return info;
}
