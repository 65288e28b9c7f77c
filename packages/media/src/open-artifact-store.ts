import { hashOfReference } from './artifact.ts';
import type { ArtifactStore } from './artifact.ts';
import { openFolderStore, readStored } from './folder-store.ts';

export type ArtifactStoreOptions = {
  /**
   * A folder in the form of a folder store, for example filled by bin/preload.ts, in which artifacts are looked for first.
   * It is only read.
   */
  readonly modelsFolder?: string | undefined;
};

/**
 * Opens the artifact store at a location: `s3://bucket/prefix` (see s3-store.ts for where credentials come from), a path, or
 * a file:// URL.
 *
 * @throws PlumbError naming the location and the fix, when it cannot be written
 */
export async function openArtifactStore(
  location: string,
  { modelsFolder }: ArtifactStoreOptions = {},
): Promise<ArtifactStore> {
  const store = await openAt(location);
  if (modelsFolder === undefined) return store;
  return {
    ...store,
    get: async (uri, sha256) =>
      (await readStored(modelsFolder, hashOfReference(uri, sha256))) ?? (await store.get(uri, sha256)),
  };
}

async function openAt(location: string): Promise<ArtifactStore> {
  if (!location.startsWith('s3:')) return await openFolderStore(location);
  // Whoever keeps artifacts in a folder does not wait for the client of S3 to load.
  const { openS3Store } = await import('./s3-store.ts');
  return await openS3Store(location);
}
