/** Where clips by URI may come from. */

import { createHash } from 'node:crypto';
import { constants, open, realpath } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { dataLoss, invalidArgument, notFound, PlumbError, unavailable } from '@plumb/kit/errors';
import { artifactsOnly } from './video.ts';
import type { ArtifactSource } from './video.ts';

/** Settings of a clip source. */
export interface ClipSourceOptions {
  /** Where artifact:sha256/... is read. */
  readonly artifacts: ArtifactSource;
  /** Beginnings of URIs that may be read besides: file:///folder/ or https://host/path/, each ending in a slash. */
  readonly prefixes: readonly string[];
  /** Largest clip, in bytes of its file. */
  readonly maxBytes: number;
}

const fetchDeadlineMs = 30_000;

/**
 * Clips from the artifact store, and from folders and hosts that are allowed one by one. A URI outside of them is refused
 * before anything is opened; links that lead out of a folder and redirects are not followed.
 *
 * @throws PlumbError INVALID_ARGUMENT for a prefix that is none
 */
export function openClipSource({ artifacts, prefixes, maxBytes }: ClipSourceOptions): ArtifactSource {
  for (const prefix of prefixes) checkPrefix(prefix);
  const allowedBy = (uri: string): string | undefined =>
    plainUrl(uri) === undefined ? undefined : prefixes.find((prefix) => uri.startsWith(prefix));
  return {
    refusal(uri) {
      if (artifactsOnly(uri) === undefined || allowedBy(uri) !== undefined) return undefined;
      return prefixes.length === 0
        ? artifactsOnly(uri)
        : 'is read neither from the artifact store nor from a prefix that this service allows';
    },
    async get(uri, sha256, { signal } = {}) {
      if (artifactsOnly(uri) === undefined) return artifacts.get(uri, sha256);
      const prefix = allowedBy(uri);
      const url = plainUrl(uri);
      if (prefix === undefined || url === undefined)
        throw invalidArgument('uri', 'is not one that this service reads');
      const bytes =
        url.protocol === 'file:'
          ? await readFrom(url, prefix, maxBytes)
          : await fetchFrom(url, maxBytes, signal);
      const found = createHash('sha256').update(bytes).digest('hex');
      if (found !== sha256) {
        throw dataLoss(`the bytes behind the uri have the hash ${found}, not ${sha256}`, {
          metadata: { sha256, found },
        });
      }
      return bytes;
    },
  };
}

function checkPrefix(prefix: string): void {
  const url = plainUrl(prefix);
  if (url === undefined || !prefix.endsWith('/') || (url.protocol !== 'file:' && url.protocol !== 'https:')) {
    throw invalidArgument(
      'clip prefix',
      `is ${JSON.stringify(prefix.slice(0, 200))}; give file:///folder/ or https://host/path/, ending in a slash`,
      { reason: 'CONFIGURATION_INVALID' },
    );
  }
}

/** A URL that is written as it is meant: no dots to climb with, no user, no query, no other way to write the same. */
function plainUrl(uri: string): URL | undefined {
  if (!URL.canParse(uri)) return undefined;
  const url = new URL(uri);
  const plain =
    url.href === uri &&
    url.username === '' &&
    url.password === '' &&
    url.search === '' &&
    url.hash === '' &&
    !/%(2e|2f|5c|00)/i.test(uri);
  return plain ? url : undefined;
}

async function readFrom(url: URL, prefix: string, maxBytes: number): Promise<Uint8Array> {
  let path: string;
  let folder: string;
  try {
    path = await realpath(fileURLToPath(url));
    folder = await realpath(fileURLToPath(prefix));
  } catch (error) {
    throw missing(url, error);
  }
  if (!path.startsWith(folder.endsWith('/') ? folder : `${folder}/`)) {
    throw invalidArgument('uri', 'leads out of the folder that this service may read');
  }
  let file;
  try {
    // A link put there since is not followed, and a pipe is not waited for.
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    throw missing(url, error);
  }
  try {
    const state = await file.stat();
    if (!state.isFile()) throw invalidArgument('uri', 'names a folder or a device; give a file');
    checkSize(state.size, maxBytes);
    const bytes = await file.readFile();
    checkSize(bytes.length, maxBytes);
    return bytes;
  } finally {
    await file.close();
  }
}

async function fetchFrom(url: URL, maxBytes: number, caller: AbortSignal | undefined): Promise<Uint8Array> {
  const late = AbortSignal.timeout(fetchDeadlineMs);
  const signal = caller === undefined ? late : AbortSignal.any([caller, late]);
  let response: Response;
  try {
    response = await fetch(url, { redirect: 'error', signal });
  } catch (error) {
    caller?.throwIfAborted();
    throw unavailable(`the clip could not be fetched from ${url.host}`, { cause: error });
  }
  if (response.status === 404 || response.status === 410) throw missing(url, undefined);
  if (!response.ok || response.body === null) {
    throw unavailable(`${url.host} answered ${response.status} for a clip`);
  }
  const parts: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const part of response.body) {
      size += part.length;
      checkSize(size, maxBytes);
      parts.push(part);
    }
  } catch (error) {
    if (error instanceof PlumbError) throw error;
    caller?.throwIfAborted();
    throw unavailable(`the clip from ${url.host} broke off`, { cause: error });
  }
  return Buffer.concat(parts);
}

function checkSize(size: number, maxBytes: number): void {
  if (size > maxBytes)
    throw invalidArgument('uri', `names a clip of ${size} bytes or more, over the limit of ${maxBytes}`);
}

function missing(url: URL, cause: unknown): PlumbError {
  return notFound('clip', url.href.slice(0, 200), { reason: 'ARTIFACT_NOT_FOUND', cause });
}
