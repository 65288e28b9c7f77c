import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { failedPrecondition, PlumbError } from '@plumb/kit/errors';
import type { StudyRecords } from '@plumb/study';
import { takeOwnership } from '../state/ownership.ts';
import { existingStateFolder, openStateFolder, writeWhole } from '../state/state-folder.ts';

/** A study's folder, held by this process alone. */
export interface StudyFolder {
  /** Absolute path. */
  readonly path: string;
  readonly records: StudyRecords;
  release(): Promise<void>;
}

/**
 * Opens the folder of a study, and makes it if it is not there.
 * @throws PlumbError FAILED_PRECONDITION when another process has it, or it holds something else
 */
export async function openStudyFolder(studies: string, name: string): Promise<StudyFolder> {
  const state = await openStateFolder(join(studies, name));
  const release = await takeOwnership(state, 'study run');
  return { path: state.path, records: recordsIn(state.path), release };
}

/** The records of a folder. */
export function recordsIn(folder: string): StudyRecords {
  return {
    async read(name) {
      try {
        return await readFile(join(folder, name));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
        throw PlumbError.from(error);
      }
    },
    async write(name, bytes) {
      const path = join(folder, name);
      await mkdir(dirname(path), { recursive: true });
      await writeWhole(path, bytes);
    },
    async remove(name) {
      await rm(join(folder, name), { force: true });
    },
  };
}

/** Names of the studies that have a folder, in order. */
export async function studiesIn(studies: string): Promise<string[]> {
  let names: string[];
  try {
    names = await readdir(studies);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw PlumbError.from(error);
  }
  const found: string[] = [];
  for (const name of names.toSorted()) {
    if ((await existingStateFolder(join(studies, name))) !== undefined) found.push(name);
  }
  return found;
}

/**
 * The folder of a study that was run before.
 * @throws PlumbError FAILED_PRECONDITION naming those that there are
 */
export async function requireStudy(studies: string, name: string): Promise<string> {
  const known = await studiesIn(studies);
  if (known.includes(name)) return resolve(studies, name);
  throw failedPrecondition(
    `there is no study ${JSON.stringify(name)} in ${resolve(studies)}; ` +
      (known.length === 0 ? 'run one first' : `there are ${known.join(', ')}`),
  );
}
