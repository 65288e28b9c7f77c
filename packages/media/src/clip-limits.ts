import { invalidArgument } from '@plumb/kit/errors';
import { maxClipPixels } from './clip.ts';

/** What a decoder may make of a file, however small the file is. */
export interface ClipLimits {
  /** Most pixels of a clip: frames x height x width. */
  readonly maxPixels: number;
  /** Most frames of a clip. */
  readonly maxFrames: number;
}

/** Limits of a reader that names none. */
export const defaultClipLimits: ClipLimits = { maxPixels: maxClipPixels, maxFrames: 4096 };

/**
 * @param what names the clip at the start of the message, for example "the GIF"
 * @throws PlumbError INVALID_ARGUMENT naming the limit that is passed
 */
export function checkLimits(
  what: string,
  shape: { readonly frames: number; readonly height: number; readonly width: number },
  limits: ClipLimits,
): void {
  const { frames, height, width } = shape;
  if (frames > limits.maxFrames) {
    throw invalidArgument(
      'clip',
      `${what} has ${frames} frames, over the limit of ${limits.maxFrames}; cut it`,
    );
  }
  const pixels = frames * height * width;
  if (pixels > limits.maxPixels) {
    throw invalidArgument(
      'clip',
      `${what} has ${frames} x ${height} x ${width} = ${pixels} pixels, over the limit of ${limits.maxPixels}; ` +
        'use fewer frames or a smaller picture',
    );
  }
}
