import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { dataLoss, failedPrecondition, notFound } from '@plumb/kit/errors';
import { z } from 'zod';

/** A study that has run to its end. */
export interface StudyResult {
  readonly name: string;
  readonly headline: string;
  readonly cells: number;
  /** Its file as it is. */
  readonly bytes: Uint8Array;
}

/** The studies of a folder. */
export interface StudyResults {
  /** By name. */
  list(): Promise<readonly StudyResult[]>;
  /** @throws PlumbError NOT_FOUND */
  read(name: string): Promise<StudyResult>;
}

/** As specs of studies are named; nothing that leads out of the folder is such a name. */
const namePattern = /^[a-z0-9][a-z0-9-]{0,79}$/;
const resultFile = 'result.json';

const resultSchema = z.object({
  kind: z.literal('plumb.study-result'),
  version: z.literal(1),
  name: z.string(),
  headline: z.string(),
  cells: z.array(z.unknown()),
});

/**
 * Studies as `plumb study` leaves them: a folder each, with the result in it once the study has run to its end.
 * @param folder undefined where there is none; then every call fails
 */
export function studyResultsIn(folder: string | undefined): StudyResults {
  const known = (): string => {
    if (folder !== undefined) return folder;
    throw failedPrecondition('this loop service knows no folder of studies; set PLUMB_STUDIES for it');
  };
  return {
    async list() {
      const found: StudyResult[] = [];
      for (const name of (await namesIn(known())).toSorted()) {
        const study = await resultOf(known(), name);
        if (study !== undefined) found.push(study);
      }
      return found;
    },
    async read(name) {
      const study = namePattern.test(name) ? await resultOf(known(), name) : undefined;
      if (study !== undefined) return study;
      throw notFound('study', name, { fix: 'list the studies to see which have run to their end' });
    },
  };
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).filter((name) => namePattern.test(name));
  } catch (error) {
    // Made with the first study.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

/** Undefined while the study has not run to its end. */
async function resultOf(folder: string, name: string): Promise<StudyResult | undefined> {
  const path = join(folder, name, resultFile);
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw error;
  }
  const unusable = (cause?: unknown): Error =>
    dataLoss(`${path} is not what this version writes; run the study again`, { cause });
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw unusable(error);
  }
  const parsed = resultSchema.safeParse(value);
  if (!parsed.success) throw unusable(parsed.error);
  return { name, headline: parsed.data.headline, cells: parsed.data.cells.length, bytes };
}
