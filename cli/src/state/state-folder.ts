import { randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { access, mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { failedPrecondition, PlumbError } from '@plumb/kit/errors';

/** The file by which a folder is known to be Plumb's. */
export const markerName = 'plumb-state.json';
const markerText = `${JSON.stringify({ kind: 'plumb.state', version: 1 })}\n`;

/** Everything that Plumb makes in a state folder. `--fresh` removes these and nothing else. */
const ownEntries = [
  'artifacts',
  'ledger',
  'logs',
  'nats',
  'owner.json',
  'processes.json',
  'result.json',
  'spans',
  'web-key',
] as const;

/** The folder in which the embedded system keeps everything between two starts. */
export interface StateFolder {
  /** Absolute path. */
  readonly path: string;
  /** Path of one of Plumb's own entries. */
  entry(name: (typeof ownEntries)[number]): string;
}

/**
 * Opens a state folder, and makes it if it is not there.
 * @throws PlumbError FAILED_PRECONDITION if the folder holds something else, FILE_ACCESS_DENIED, DISK_FULL and the like
 *   if it cannot be written; each names the folder and the fix.
 */
export async function openStateFolder(path: string): Promise<StateFolder> {
  const folder = resolve(path);
  try {
    await mkdir(folder, { recursive: true });
    const entries = await readdir(folder);
    if (!entries.includes(markerName)) {
      if (entries.length > 0) {
        throw failedPrecondition(
          `${folder} is not a Plumb state folder (it holds other files and no ${markerName}); name a new or empty folder with --state`,
        );
      }
      await writeWhole(join(folder, markerName), markerText);
    }
    await probeWritable(folder);
  } catch (error) {
    throw unwritable(folder, error);
  }
  return { path: folder, entry: (name) => join(folder, name) };
}

/**
 * Removes what Plumb made in the folder, so that the next start begins anew. A folder that is not there or is empty is
 * left as it is.
 * @throws PlumbError FAILED_PRECONDITION if the folder is not a Plumb state folder.
 */
export async function emptyStateFolder(folder: StateFolder): Promise<void> {
  try {
    for (const name of ownEntries) {
      if (name !== 'owner.json') await rm(folder.entry(name), { recursive: true, force: true });
    }
  } catch (error) {
    throw unwritable(folder.path, error);
  }
}

/** The state folder at a path, if there is one. */
export async function existingStateFolder(path: string): Promise<StateFolder | undefined> {
  const folder = resolve(path);
  try {
    await access(join(folder, markerName), constants.R_OK);
  } catch {
    // Whatever the reason, nothing of Plumb's can be read there.
    return undefined;
  }
  return { path: folder, entry: (name) => join(folder, name) };
}

/** Writes a file whole or not at all: a reader sees the old content or the new one. */
export async function writeWhole(path: string, content: string | Uint8Array): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${randomUUID()}`);
  try {
    const file = await open(temporary, 'wx');
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/**
 * Checks, before hours of work, that a file can be written at a path.
 * @throws PlumbError naming the path and the fix.
 */
export async function requireWritableFile(path: string, flag: string): Promise<void> {
  const target = resolve(path);
  try {
    const there = await stat(target).catch(() => undefined);
    if (there?.isDirectory() === true) {
      throw failedPrecondition(`${target} is a folder; name a file with ${flag}`);
    }
    await mkdir(dirname(target), { recursive: true });
    await probeWritable(dirname(target));
  } catch (error) {
    if (error instanceof PlumbError) throw error;
    throw failedPrecondition(
      `${target} cannot be written (${systemCode(error)}); name another file with ${flag}`,
      {
        reason: PlumbError.from(error).reason,
        cause: error,
      },
    );
  }
}

async function probeWritable(folder: string): Promise<void> {
  const probe = join(folder, `.plumb-probe-${randomUUID()}`);
  await writeFile(probe, 'x', { flag: 'wx' });
  await rm(probe);
}

/** Reads a JSON file of the state folder; undefined where there is none. */
export async function readJson(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as unknown;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

function unwritable(folder: string, error: unknown): PlumbError {
  if (error instanceof PlumbError) return error;
  const code = systemCode(error);
  const fix =
    code === 'ENOSPC' || code === 'EDQUOT'
      ? 'the disk is full; free some space or name another folder with --state'
      : 'name another folder with --state';
  return failedPrecondition(`the state folder ${folder} cannot be written (${code}): ${fix}`, {
    reason: PlumbError.from(error).reason,
    cause: error,
  });
}

function systemCode(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? String(error);
}
