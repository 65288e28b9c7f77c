/** Which frames of a clip a reward looks at. */

import { invalidArgument } from '@plumb/kit/errors';
import { sampleFrames } from '@plumb/media';
import type { Clip } from '@plumb/media';
import type { ScoredDefinition } from './definition.ts';

/**
 * Indices of the frames that a definition asks for, in order.
 *
 * @throws PlumbError INVALID_ARGUMENT, reason CLIP_MISMATCH, for a clip of another rate than the definition expects
 */
export function framesToScore({ name, fps, frames }: ScoredDefinition, clip: Clip): readonly number[] {
  if (fps !== 'any' && Math.abs(clip.fps - fps) > 1e-6) {
    throw invalidArgument(
      'clip.fps',
      `is ${clip.fps}, but reward '${name}' takes clips of ${fps} frames a second; convert the clip`,
      { reason: 'CLIP_MISMATCH' },
    );
  }
  if (frames === 'all') return Array.from({ length: clip.frames }, (_, index) => index);
  return sampleFrames(clip, frames.count);
}
