import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { extname, join, relative, sep } from 'node:path';

/** A file as it is sent. */
export interface StaticFile {
  readonly mediaType: string;
  readonly etag: string;
  /** By content coding; `identity` is always there. */
  readonly bodies: Readonly<Record<string, Buffer>>;
  /** Has the hash of its content in its name and so never changes. */
  readonly immutable: boolean;
}

const mediaTypes: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.webmanifest': 'application/manifest+json',
};
const codings: Readonly<Record<string, string>> = { '.br': 'br', '.gz': 'gzip' };

/**
 * Reads a folder once, so that a request can only ever name what was in it at the start. `x.js.br` and `x.js.gz` are other
 * forms of `x.js`.
 *
 * @returns the files by their path from the folder with `/` before it; undefined if there is no such folder
 */
export async function readStaticFiles(folder: string): Promise<ReadonlyMap<string, StaticFile> | undefined> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    },
  );
  if (entries === undefined) return undefined;
  const files = new Map<string, StaticFile>();
  const paths = entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .toSorted();
  for (const path of paths) {
    const coding = codings[extname(path)];
    const plain = coding === undefined ? path : path.slice(0, -extname(path).length);
    const mediaType = mediaTypes[extname(plain)];
    if (mediaType === undefined) continue;
    const name = `/${relative(folder, plain).split(sep).join('/')}`;
    const body = await readFile(path);
    const known = files.get(name);
    files.set(name, {
      mediaType,
      immutable: name.startsWith('/assets/'),
      etag: known?.etag ?? `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`,
      bodies: { ...known?.bodies, [coding ?? 'identity']: body },
    });
  }
  return files;
}
