import { randomUUID } from 'node:crypto';
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { invalidArgument, PlumbError } from '@plumb/kit/errors';
import {
  checkedHash,
  checkSize,
  describeArtifact,
  hashIn,
  hashOf,
  hashOfReference,
  largestArtifact,
  notStored,
  verified,
} from './artifact.ts';
import type { ArtifactStore } from './artifact.ts';

export type FolderStoreOptions = {
  /** Largest artifact that is written or read, in bytes; default 4 GiB. */
  readonly maxBytes?: number;
};

/** A temporary file this old (milliseconds) was left by a process that died while it wrote. */
const abandonedAfter = 60 * 60 * 1000;

const systemCode = (error: unknown): string | undefined =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;

/** Where a folder store keeps the bytes of a hash. */
export const storedPath = (folder: string, hash: string): string =>
  join(folder, 'sha256', hash.slice(0, 2), hash);

/**
 * The bytes of a hash in the folder of a store, which may be read-only and may not be there; undefined if it does not have them.
 * @throws PlumbError DATA_LOSS when they are damaged
 */
export async function readStored(folder: string, hash: string): Promise<Uint8Array | undefined> {
  try {
    return verified(new Uint8Array(await readFile(storedPath(folder, hash))), hash);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw PlumbError.from(error);
  }
}

/** A folder that cannot be made or written, said so that a person at the keyboard can mend it. */
function unusable(folder: string, error: unknown): PlumbError {
  const known = PlumbError.from(error);
  return new PlumbError({
    code: known.code === 'INTERNAL' ? 'FAILED_PRECONDITION' : known.code,
    reason: known.reason,
    message:
      `the artifact folder '${folder}' cannot be written (${systemCode(error) ?? known.message}); ` +
      'make it writable for this user or name another folder',
    metadata: { folder },
    cause: error,
  });
}

/**
 * Opens an artifact store in a folder, making the folder if it is missing. Files are written beside, flushed, and moved
 * into place, so that a reader never sees half of one and a crash leaves nothing that looks whole. Several processes may
 * share the folder.
 *
 * @param location a path, or a file:// URL
 * @throws PlumbError naming the folder and the fix, when it cannot be made or written
 */
export async function openFolderStore(
  location: string,
  options: FolderStoreOptions = {},
): Promise<ArtifactStore> {
  if (location === '') throw invalidArgument('artifact folder', 'is empty; name a folder');
  const folder = resolve(location.startsWith('file:') ? fileURLToPath(location) : location);
  const arriving = join(folder, 'arriving');
  const maxBytes = options.maxBytes ?? largestArtifact;
  const pathOf = (hash: string): string => storedPath(folder, hash);

  try {
    await makeFolder(arriving);
    await makeFolder(join(folder, 'sha256'));
    // Permissions alone do not tell (read-only file systems, root): only writing does.
    const probe = join(arriving, randomUUID());
    await writeDurably(probe, new Uint8Array(1));
    await rm(probe);
    await removeAbandoned(arriving);
  } catch (error) {
    throw unusable(folder, error);
  }

  const read = async (hash: string): Promise<Uint8Array> => {
    const path = pathOf(hash);
    try {
      const { size } = await stat(path);
      checkSize(size, maxBytes);
      return new Uint8Array(await readFile(path));
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw PlumbError.from(error);
      throw notStored(hash, 'check that all services share one artifact folder', error);
    }
  };
  const holds = async (hash: string): Promise<boolean> => {
    try {
      return (await stat(pathOf(hash))).isFile();
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return false;
      throw PlumbError.from(error);
    }
  };
  /** Whether the stored file is there and intact; a damaged one is written again. */
  const isIntact = async (hash: string): Promise<boolean> =>
    (await holds(hash)) && hashOf(await read(hash)) === hash;

  return {
    async put(bytes, { mediaType }) {
      const artifact = describeArtifact(bytes, mediaType, maxBytes);
      const hash = artifact.sha256;
      if (await isIntact(hash)) return artifact;
      const temporary = join(arriving, randomUUID());
      try {
        const path = pathOf(hash);
        await makeFolder(dirname(path));
        await writeDurably(temporary, bytes);
        await rename(temporary, path);
        await flushFolder(dirname(path));
      } catch (error) {
        await rm(temporary, { force: true });
        throw PlumbError.from(error);
      }
      verified(await read(hash), hash);
      return artifact;
    },
    async get(uri, sha256) {
      const hash = hashOfReference(uri, sha256);
      return verified(await read(hash), hash);
    },
    async has(sha256) {
      return holds(checkedHash('sha256', sha256));
    },
    async remove(uri) {
      try {
        await rm(pathOf(hashIn(uri)), { force: true });
      } catch (error) {
        throw PlumbError.from(error);
      }
    },
  };
}

/**
 * Makes a folder and those above it. Node's own recursive mkdir never ends where a folder exists but takes no entries
 * (/proc answers ENOENT), so each missing folder is made once, from the top down.
 */
async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder);
  } catch (error) {
    const code = systemCode(error);
    if (code === 'EEXIST' && (await stat(folder)).isDirectory()) return;
    if (code !== 'ENOENT' || (await isFolder(dirname(folder)))) throw error;
    await makeFolder(dirname(folder));
    await makeFolder(folder);
  }
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Writes a new file and waits until the disk has it. */
async function writeDurably(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, 'wx', 0o644);
  try {
    await file.writeFile(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Makes a rename survive a power cut: the folder's entry must reach the disk as well. */
async function flushFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function removeAbandoned(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    const path = join(folder, name);
    try {
      if (Date.now() - (await stat(path)).mtimeMs > abandonedAfter) await rm(path, { force: true });
    } catch (error) {
      // Another process has just moved its file into place.
      if (systemCode(error) !== 'ENOENT') throw error;
    }
  }
}
