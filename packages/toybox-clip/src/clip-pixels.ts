/** Frames of toybox clips as inputs of the vision tower. */

import { frameOf, sampleFrames } from '@plumb/media';
import type { Clip } from '@plumb/media';
import { pixels, size } from './towers.ts';

/** Frames of a clip that are looked at, spread evenly. */
export const framesPerClip = 4;

/** Numbers of one frame in the model. */
const frameValues = 3 * size.picture ** 2;
/** Numbers of one clip in the model. */
export const clipValues = framesPerClip * frameValues;

/** Writes the sampled frames of a clip of the model's own size into `target`, [framesPerClip, 3, height, width]. */
export function clipToFrames(clip: Clip, target: Float32Array): void {
  for (const [row, index] of sampleFrames(clip, framesPerClip).entries()) {
    const frame = frameOf(clip, index);
    for (let pixel = 0; pixel < size.picture ** 2; pixel += 1) {
      for (let channel = 0; channel < 3; channel += 1) {
        const level = (frame[pixel * 3 + channel] ?? 0) / 255;
        target[row * frameValues + channel * size.picture ** 2 + pixel] = (level - pixels.mean) / pixels.std;
      }
    }
  }
}
