import { readFile } from 'node:fs/promises';
import { extname } from 'node:path';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { invalidArgument, PlumbError } from '@plumb/kit/errors';
import { maxInlineClipBytes } from '@plumb/media';
import type { VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';

/** Media types by the end of a file's name; all of them say their own shape. */
const mediaTypes: Readonly<Record<string, string>> = {
  '.mp4': 'video/mp4',
  '.webm': 'video/webm',
  '.webp': 'image/webp',
  '.gif': 'image/gif',
  '.png': 'image/apng',
  '.apng': 'image/apng',
};

/**
 * A clip from a file, as it goes into a request.
 * @throws PlumbError INVALID_ARGUMENT for a file of another kind or one that is too large; NOT_FOUND
 */
export async function clipFile(path: string): Promise<MessageInitShape<typeof VideoSchema>> {
  const mediaType = mediaTypes[extname(path).toLowerCase()];
  if (mediaType === undefined) {
    throw invalidArgument(
      'clip',
      `is '${path}'; give a file that ends in ${Object.keys(mediaTypes).join(', ')}`,
    );
  }
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw PlumbError.from(error);
  }
  if (bytes.length > maxInlineClipBytes) {
    throw invalidArgument(
      'clip',
      `'${path}' has ${bytes.length} bytes, over the limit of ${maxInlineClipBytes} for a clip inside of a call; make it smaller`,
    );
  }
  return { source: { case: 'inline', value: bytes }, mediaType };
}
