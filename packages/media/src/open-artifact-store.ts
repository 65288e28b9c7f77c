import type { ArtifactStore } from './artifact.ts';
import { openFolderStore } from './folder-store.ts';

/**
 * Opens the artifact store at a location: `s3://bucket/prefix` (see s3-store.ts for where credentials come from), a path, or
 * a file:// URL.
 *
 * @throws PlumbError naming the location and the fix, when it cannot be written
 */
export async function openArtifactStore(location: string): Promise<ArtifactStore> {
  if (!location.startsWith('s3:')) return await openFolderStore(location);
  // Whoever keeps artifacts in a folder does not wait for the client of S3 to load.
  const { openS3Store } = await import('./s3-store.ts');
  return await openS3Store(location);
}
