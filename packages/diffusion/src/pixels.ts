import { invalidArgument } from '@plumb/kit/errors';
import type { Clip } from '@plumb/media';
import { clipSize, type VideoModelConfig } from './config.ts';

/**
 * Writes a clip as model values, (pixel / 255 - mean) * scale, at `offset` of `target`.
 * @param target float32, filled with [3, frames, height, width] from `offset` on
 * @throws PlumbError INVALID_ARGUMENT when the clip's size is not the model's
 */
export function clipToModel(config: VideoModelConfig, clip: Clip, target: Float32Array, offset = 0): void {
  const { frames, height, width } = config.video;
  if (clip.frames !== frames || clip.height !== height || clip.width !== width) {
    throw invalidArgument(
      'video',
      `is ${clip.frames} frames of ${clip.width}x${clip.height}; model ${config.name} takes ${frames} frames of ${width}x${height}`,
    );
  }
  const { mean, scale } = config.pixels;
  const plane = frames * height * width;
  for (let position = 0; position < plane; position++) {
    for (let channel = 0; channel < 3; channel++) {
      target[offset + channel * plane + position] =
        ((clip.data[position * 3 + channel] ?? 0) / 255 - mean) * scale;
    }
  }
}

/**
 * The clip that model values stand for, rounded to eight bits; values outside the range are clipped.
 * @param values float32 [3, frames, height, width] from `offset` on
 */
export function modelToClip(config: VideoModelConfig, values: Float32Array, offset = 0): Clip {
  const { frames, height, width, fps } = config.video;
  const { mean, scale } = config.pixels;
  const plane = frames * height * width;
  // Uint8ClampedArray rounds to nearest and clips, as asked; Clip carries the same bytes as Uint8Array.
  const bytes = new Uint8ClampedArray(clipSize(config));
  for (let position = 0; position < plane; position++) {
    for (let channel = 0; channel < 3; channel++) {
      bytes[position * 3 + channel] =
        ((values[offset + channel * plane + position] ?? 0) / scale + mean) * 255;
    }
  }
  return { frames, height, width, fps, data: new Uint8Array(bytes.buffer) };
}
