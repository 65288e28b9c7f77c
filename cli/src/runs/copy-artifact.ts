import { failedPrecondition } from '@plumb/kit/errors';
import { artifactUri, openArtifactStore } from '@plumb/media';
import { builtInModelMediaType } from '@plumb/media/model-media-types';

/**
 * Copies a model's weights from one artifact store to another.
 * @throws PlumbError FAILED_PRECONDITION without an original store, and for models that are more than one file of weights
 */
export async function copyModel(
  {
    version,
    sha256,
    mediaType,
  }: { readonly version: string; readonly sha256: string; readonly mediaType: string },
  from: string | undefined,
  to: string,
): Promise<void> {
  if (mediaType !== builtInModelMediaType) {
    throw failedPrecondition(
      `${version} is ${mediaType}; only runs of the built-in video model can be repeated in a folder of their own. Run its spec again under another --idempotency-key, and compare the two with \`./plumb run diff\``,
    );
  }
  if (from === undefined) {
    throw failedPrecondition(
      'the weights that it begins with are in the artifact store of the original; name its state folder with --state, or the store with PLUMB_ARTIFACTS',
    );
  }
  const bytes = await (await openArtifactStore(from)).get(artifactUri(sha256), sha256);
  await (await openArtifactStore(to)).put(bytes, { mediaType });
}
