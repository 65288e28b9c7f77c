import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { dataLoss, describeError, fieldPath, invalidArguments, notFound } from '@plumb/kit/errors';
import type { ArtifactStore } from '@plumb/media';
import { dataSetManifestSchema, dataSetMediaType } from '@plumb/objective';
import type { DataSetManifest } from '@plumb/objective';
import { artifactScheme } from './job-spec-file.ts';

/** Most bad fields of a manifest that an error names. */
const maxViolations = 20;

/**
 * Brings a data set into the store: a manifest file, and the clips that it names by path (relative to the manifest)
 * instead of by artifact.
 * @param source path of the manifest, or an artifact URI of one that is in the store
 * @throws PlumbError NOT_FOUND, INVALID_ARGUMENT naming the bad fields, DATA_LOSS for a clip whose hash is another
 */
export async function storeDataSet(
  source: string,
  store: ArtifactStore,
): Promise<{ uri: string; sha256: string }> {
  if (source.startsWith(artifactScheme)) return { uri: source, sha256: source.split('/').at(-1) ?? '' };
  const bytes = await read(source, 'data-set manifest');
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw dataLoss(`the data-set manifest ${source} is not JSON (${describeError(error)})`, { cause: error });
  }
  const parsed = dataSetManifestSchema.safeParse(value);
  if (!parsed.success) {
    throw invalidArguments(
      parsed.error.issues.slice(0, maxViolations).map(({ path, message }) => ({
        field: fieldPath([source, ...path]),
        description: message,
      })),
    );
  }
  const samples = parsed.data.samples;
  if (samples.every(({ video }) => video.uri.startsWith(artifactScheme))) {
    // As it is, so that its hash stays the one that others know.
    return store.put(bytes, { mediaType: dataSetMediaType });
  }
  const files = samples.filter(({ video }) => !video.uri.startsWith(artifactScheme));
  // All of them before the first is stored: a data set that is refused leaves nothing behind.
  for (const sample of files) await readClip(source, sample);
  for (const sample of files) {
    const clip = await readClip(source, sample);
    sample.video.uri = (await store.put(clip, { mediaType: sample.video.mediaType })).uri;
  }
  return store.put(new TextEncoder().encode(JSON.stringify(parsed.data)), { mediaType: dataSetMediaType });
}

/** @throws PlumbError NOT_FOUND, or DATA_LOSS when the bytes are not those that the manifest means */
async function readClip(
  source: string,
  { sampleId, video }: DataSetManifest['samples'][number],
): Promise<Uint8Array> {
  const clip = await read(resolve(dirname(source), video.uri), `clip of sample ${sampleId}`);
  const sha256 = createHash('sha256').update(clip).digest('hex');
  if (sha256 === video.sha256) return clip;
  throw dataLoss(
    `${video.uri}, the clip of sample ${sampleId}, has the hash ${sha256} and not ${video.sha256} as the manifest says; get it again`,
  );
}

async function read(path: string, what: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw notFound(what, path, { fix: 'name one that is there', cause: error });
  }
}
