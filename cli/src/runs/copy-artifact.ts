import { failedPrecondition } from '@plumb/kit/errors';
import { artifactUri, openArtifactStore } from '@plumb/media';

/** Copies an artifact from one store to another. */
export async function copyArtifact(
  sha256: string,
  from: string | undefined,
  to: string,
  mediaType: string,
): Promise<void> {
  if (from === undefined) {
    throw failedPrecondition(
      'the weights that it begins with are in the artifact store of the original; name its state folder with --state',
    );
  }
  const bytes = await (await openArtifactStore(from)).get(artifactUri(sha256), sha256);
  await (await openArtifactStore(to)).put(bytes, { mediaType });
}
