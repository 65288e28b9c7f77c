import { randomUUID } from 'node:crypto';
import { mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { dataLoss, PlumbError } from '@plumb/kit/errors';
import type { StoredArtifact } from '@plumb/media';
import { pipelineMediaType } from '@plumb/media/model-media-types';
import { z } from 'zod';
import type { PipelineFolder, Precision } from './pipeline-folder.ts';

const partMediaType = 'application/octet-stream';

/** Bytes of an artifact that a file is cut into: files of pipelines are larger than an artifact may be. */
const partBytes = 256 * 2 ** 20;

/** The parts of an artifact store that pipelines need. */
export interface PipelineStore {
  put(bytes: Uint8Array, options: { readonly mediaType: string }): Promise<StoredArtifact>;
  get(uri: string, sha256: string): Promise<Uint8Array>;
}

// Nothing of a manifest may leave the folder that it is unpacked in.
const segment = '[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}';
const manifestSchema = z.strictObject({
  format: z.literal(1),
  precision: z.enum(['float32', 'float16']),
  files: z
    .array(
      z.strictObject({
        path: z.string().regex(new RegExp(`^${segment}(/${segment}){0,3}$`)),
        parts: z.array(
          z.strictObject({ uri: z.string(), sha256: z.string(), size: z.int().min(0).max(partBytes) }),
        ),
      }),
    )
    .min(1)
    .max(1000),
});

/**
 * Puts a pipeline's files and its manifest into an artifact store. Equal folders give equal manifests.
 * @returns the manifest
 */
export async function storePipeline(
  folder: PipelineFolder,
  precision: Precision,
  store: PipelineStore,
): Promise<StoredArtifact> {
  const files: z.input<typeof manifestSchema>['files'] = [];
  for (const path of folder.files) {
    const handle = await open(join(folder.path, path));
    try {
      const { size } = await handle.stat();
      const parts: { uri: string; sha256: string; size: number }[] = [];
      for (let start = 0; start < size; start += partBytes) {
        const bytes = new Uint8Array(Math.min(partBytes, size - start));
        let filled = 0;
        while (filled < bytes.length) {
          const { bytesRead } = await handle.read(bytes, filled, bytes.length - filled, start + filled);
          if (bytesRead === 0) throw dataLoss(`${join(folder.path, path)} became shorter while it was read`);
          filled += bytesRead;
        }
        const { uri, sha256 } = await store.put(bytes, { mediaType: partMediaType });
        parts.push({ uri, sha256, size: bytes.length });
      }
      files.push({ path, parts });
    } finally {
      await handle.close();
    }
  }
  const manifest = manifestSchema.parse({ format: 1, precision, files });
  return await store.put(Buffer.from(JSON.stringify(manifest)), { mediaType: pipelineMediaType });
}

/**
 * Unpacks a pipeline into a folder of a cache, every part checked against its hash. A pipeline that is there already is
 * left as it is.
 * @returns path and precision of the pipeline
 * @throws PlumbError DATA_LOSS, reason MODEL_CORRUPT, for a manifest that cannot be read; what the store throws
 */
export async function fetchPipeline(
  manifest: { readonly uri: string; readonly sha256: string },
  store: Pick<PipelineStore, 'get'>,
  cache: string,
): Promise<{ readonly path: string; readonly precision: Precision }> {
  const bytes = await store.get(manifest.uri, manifest.sha256);
  const { files, precision } = readManifest(bytes, manifest.uri);
  const path = join(cache, manifest.sha256);
  if (await isFolder(path)) return { path, precision };
  const arriving = join(cache, `.arriving-${randomUUID()}`);
  try {
    for (const file of files) {
      await mkdir(dirname(join(arriving, file.path)), { recursive: true });
      const handle = await open(join(arriving, file.path), 'wx');
      try {
        for (const { uri, sha256 } of file.parts) await handle.writeFile(await store.get(uri, sha256));
      } finally {
        await handle.close();
      }
    }
    await rename(arriving, path);
  } catch (error) {
    await rm(arriving, { recursive: true, force: true });
    // Another process may have been faster.
    if (!(await isFolder(path))) throw PlumbError.from(error);
  }
  return { path, precision };
}

function readManifest(bytes: Uint8Array, uri: string): z.output<typeof manifestSchema> {
  try {
    return manifestSchema.parse(JSON.parse(Buffer.from(bytes).toString('utf8')));
  } catch (error) {
    throw dataLoss(`${uri} is no manifest of a pipeline; import the pipeline again`, {
      reason: 'MODEL_CORRUPT',
      cause: error,
    });
  }
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw PlumbError.from(error);
  }
}
