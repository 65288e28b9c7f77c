/**
 * Fetches models before a service starts, as an init container does.
 *
 *     node packages/media/bin/preload.ts '[{"sha256":"...","url":"https://...","path":"clip/vision.onnx"}]'
 *
 * Each comes from `url`, or from the artifact store (PLUMB_ARTIFACTS) without one, is checked against its hash, and is kept in
 * PLUMB_MODELS_FOLDER, where services look for artifacts first; with `path`, also there under PLUMB_MODELS_PATHS. What is
 * there already is not fetched again.
 */

import { link, mkdir, rename, rm } from 'node:fs/promises';
import { dirname, join, resolve, sep } from 'node:path';
import { loadConfig } from '@plumb/kit/config';
import { describeError, invalidArgument, PlumbError, unavailable } from '@plumb/kit/errors';
import { z } from 'zod';
import { artifactUri, largestArtifact, verified } from '../src/artifact.ts';
import { openFolderStore, readStored, storedPath } from '../src/folder-store.ts';
import { openArtifactStore } from '../src/open-artifact-store.ts';

const settings = z.object({
  artifacts: z.string().min(1).optional().describe('the artifact store, a folder or s3://bucket/prefix'),
  modelsFolder: z.string().min(1).describe('a folder, for example /models/artifacts'),
  modelsPaths: z.string().min(1).default('/models').describe('a folder, for example /models'),
});

const listSchema = z.array(
  z.strictObject({
    sha256: z.string().regex(/^[0-9a-f]{64}$/),
    url: z.url({ protocol: /^https$/ }).optional(),
    path: z
      .string()
      .regex(/^[\w.-]+(\/[\w.-]+)*$/)
      .optional(),
  }),
);

async function preload(): Promise<void> {
  const config = loadConfig(settings, process.env);
  const list = listSchema.parse(JSON.parse(process.argv[2] ?? '[]'));
  const kept = await openFolderStore(config.modelsFolder);
  for (const { sha256, url, path } of list) {
    const startedMs = performance.now();
    const there = await readStored(config.modelsFolder, sha256);
    const bytes =
      there ?? (url === undefined ? await fromStore(config.artifacts, sha256) : await fromUrl(url, sha256));
    if (there === undefined) await kept.put(bytes, { mediaType: 'application/octet-stream' });
    if (path !== undefined) await linkAt(config.modelsPaths, path, storedPath(config.modelsFolder, sha256));
    const seconds = Number(((performance.now() - startedMs) / 1000).toFixed(1));
    process.stdout.write(
      `${JSON.stringify({ sha256, path, bytes: bytes.length, fetched: there === undefined, seconds })}\n`,
    );
  }
}

async function fromStore(location: string | undefined, sha256: string): Promise<Uint8Array> {
  if (location === undefined) {
    throw invalidArgument('PLUMB_ARTIFACTS', `is missing and ${sha256} has no url; set one of them`, {
      reason: 'CONFIGURATION_INVALID',
    });
  }
  return await (await openArtifactStore(location)).get(artifactUri(sha256), sha256);
}

async function fromUrl(url: string, sha256: string): Promise<Uint8Array> {
  const { host } = new URL(url);
  try {
    const response = await fetch(url);
    if (!response.ok) throw unavailable(`${host} answered ${response.status} for ${url}`);
    const length = Number(response.headers.get('content-length') ?? 0);
    if (length > largestArtifact) {
      throw invalidArgument(
        'url',
        `is ${length} bytes; a model file is ${largestArtifact} at most, so split its weights`,
      );
    }
    return verified(new Uint8Array(await response.arrayBuffer()), sha256);
  } catch (error) {
    if (error instanceof PlumbError) throw error;
    throw unavailable(`${url} could not be fetched`, { cause: error });
  }
}

/** Puts a link to a stored file where a reward's definition names it; in one step, whatever was there. */
async function linkAt(folder: string, path: string, stored: string): Promise<void> {
  const target = resolve(folder, path);
  if (path.split('/').includes('..') || !target.startsWith(resolve(folder) + sep)) {
    throw invalidArgument('path', `is '${path}', which leads out of ${folder}`);
  }
  await mkdir(dirname(target), { recursive: true });
  const beside = join(dirname(target), `.preload-${process.pid}`);
  await rm(beside, { force: true });
  await link(stored, beside);
  await rename(beside, target);
}

try {
  await preload();
} catch (thrown) {
  const error = PlumbError.from(thrown);
  process.stderr.write(`preload: ${describeError(error)}\n`);
  process.exitCode = error.reason === 'CONFIGURATION_INVALID' ? 2 : 1;
}
