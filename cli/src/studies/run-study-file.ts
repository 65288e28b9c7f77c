import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { decodeModel } from '@plumb/diffusion';
import { invalidArgument, PlumbError } from '@plumb/kit/errors';
import { loadPromptSet } from '@plumb/prompts';
import { readRewardDefinitions } from '@plumb/rewards';
import { openScoring, parseStudySpec, rewardsNeededBy, runStudy } from '@plumb/study';
import type { StudyData, StudyProgress, StudySpec } from '@plumb/study';
import { openEngine } from '@plumb/tensor-graph/engine';
import { parse } from 'yaml';
import { openStudyFolder } from './study-folder.ts';

/** A study that has run to its end. */
export interface FinishedStudy {
  readonly data: StudyData;
  /** Its folder. */
  readonly folder: string;
  /** Seconds of this start alone. */
  readonly seconds: number;
  /** Of the engine: the same number gives the same last bits. */
  readonly threads: number;
}

/**
 * Runs the study of a file, from where it is.
 * @param studies the folder of studies
 * @param finish called with the data while this process still holds the study's folder
 */
export async function runStudyFile(
  file: string,
  options: {
    readonly studies: string;
    readonly threads: number;
    readonly signal: AbortSignal;
    readonly onProgress: (progress: StudyProgress) => void;
    readonly finish: (study: FinishedStudy) => Promise<void>;
  },
): Promise<void> {
  const started = performance.now();
  const spec = await readStudySpec(file);
  const near = (path: string): string => resolve(dirname(file), path);
  const prompts = await loadPromptSet(near(spec.prompts.set));
  const model = decodeModel(await read(near(spec.model)), spec.model);
  const definitions = await readRewardDefinitions(near(spec.rewards));
  const folder = await openStudyFolder(options.studies, spec.name);
  try {
    const scoring = await openScoring(definitions, rewardsNeededBy(spec));
    try {
      const engine = await openEngine({ form: 'process', intraOpThreads: options.threads });
      try {
        const data = await runStudy({
          spec,
          model,
          prompts,
          scoring,
          engine,
          records: folder.records,
          onProgress: options.onProgress,
          signal: options.signal,
        });
        const seconds = (performance.now() - started) / 1000;
        await options.finish({ data, folder: folder.path, seconds, threads: options.threads });
      } finally {
        await engine.close();
      }
    } finally {
      await scoring.close();
    }
  } finally {
    await folder.release();
  }
}

/**
 * Reads and checks the spec of a study.
 * @throws PlumbError NOT_FOUND, or INVALID_ARGUMENT with one violation for every bad field
 */
export async function readStudySpec(file: string): Promise<StudySpec> {
  const text = new TextDecoder().decode(await read(file));
  let value: unknown;
  try {
    value = parse(text);
  } catch (error) {
    throw invalidArgument(file, `is no YAML: ${(error as Error).message.split('\n')[0]}`, { cause: error });
  }
  return parseStudySpec(value, file);
}

async function read(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (error) {
    const known = PlumbError.from(error);
    throw new PlumbError({
      code: known.code,
      reason: known.reason,
      message: `${path} cannot be read: ${known.message}`,
      cause: error,
    });
  }
}
