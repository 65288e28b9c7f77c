/**
 * Guards against degenerate cures: numbers that fall when a model learns to please a judge by showing nothing that
 * moves, by losing its objects, or by washing out its colours. All are computed on pixels alone and cost microseconds.
 */

import { frameOf } from '@plumb/media';
import type { Clip } from '@plumb/media';
import type { RewardValue } from './reward.ts';

/** Largest difference of a channel from the background at which a pixel still counts as background, in levels of 255. */
const foregroundThreshold = 40;
/** Levels of a channel at which a colour histogram is cut into bins: 4 bins a channel, 64 in all. */
const binsPerChannel = 4;

/**
 * Motion: mean absolute difference of consecutive frames over all pixels and channels, 0 (a still picture) to 1.
 *
 * Details: `moving_share`, the share of pixels that differ by more than a tenth of the range in at least one frame.
 */
export function motionFloor(clip: Clip): RewardValue {
  const size = clip.width * clip.height * 3;
  const moved = new Uint8Array(clip.width * clip.height);
  let sum = 0;
  for (let frame = 1; frame < clip.frames; frame += 1) {
    const [before, after] = [frameOf(clip, frame - 1), frameOf(clip, frame)];
    for (let index = 0; index < size; index += 1) {
      const difference = Math.abs((after[index] ?? 0) - (before[index] ?? 0));
      sum += difference;
      if (difference > 25) moved[Math.floor(index / 3)] = 1;
    }
  }
  const steps = clip.frames - 1;
  const value = steps === 0 ? 0 : sum / (steps * size * 255);
  return { value, details: { moving_share: moved.reduce((total, one) => total + one, 0) / moved.length } };
}

/**
 * Object persistence: smallest foreground area of any frame over the largest, 0 (something vanished) to 1 (all there in
 * every frame). Foreground is what differs from the background, which is the commonest colour of the first frame.
 * A clip without any foreground has 0.
 *
 * Details: `mean_area`, the mean share of the picture that is foreground.
 */
export function objectPersistence(clip: Clip): RewardValue {
  const background = commonestColour(frameOf(clip, 0));
  const areas: number[] = [];
  for (let frame = 0; frame < clip.frames; frame += 1)
    areas.push(foregroundShare(frameOf(clip, frame), background));
  const largest = Math.max(...areas);
  const mean = areas.reduce((total, area) => total + area, 0) / areas.length;
  return { value: largest === 0 ? 0 : Math.min(...areas) / largest, details: { mean_area: mean } };
}

/**
 * Colour stability: smallest overlap of any frame's colour histogram with the first one's, 0 (no colour in common) to 1
 * (the same colours, in the same amounts). Histogram intersection, Swain and Ballard, "Color indexing", 1991.
 *
 * Details: `mean_saturation`, the mean distance of a pixel's channels (largest minus smallest), 0 to 1.
 */
export function colourStability(clip: Clip): RewardValue {
  const first = histogram(frameOf(clip, 0));
  let value = 1;
  let saturation = 0;
  for (let frame = 0; frame < clip.frames; frame += 1) {
    const pixels = frameOf(clip, frame);
    const other = histogram(pixels);
    value = Math.min(
      value,
      first.reduce((overlap, share, bin) => overlap + Math.min(share, other[bin] ?? 0), 0),
    );
    saturation += meanSaturation(pixels);
  }
  return { value: Math.min(1, value), details: { mean_saturation: saturation / clip.frames } };
}

function binOf(pixels: Uint8Array, at: number): number {
  const level = (channel: number): number => ((pixels[at + channel] ?? 0) * binsPerChannel) >> 8;
  return (level(0) * binsPerChannel + level(1)) * binsPerChannel + level(2);
}

/** Share of pixels in each bin; the sum is 1. */
function histogram(pixels: Uint8Array): Float64Array {
  const counts = new Float64Array(binsPerChannel ** 3);
  for (let at = 0; at < pixels.length; at += 3) {
    const bin = binOf(pixels, at);
    counts[bin] = (counts[bin] ?? 0) + 1;
  }
  return counts.map((count) => count / (pixels.length / 3));
}

/** Mean colour of the fullest bin. */
function commonestColour(pixels: Uint8Array): readonly [number, number, number] {
  const shares = histogram(pixels);
  const fullest = shares.indexOf(Math.max(...shares));
  const sums: [number, number, number] = [0, 0, 0];
  let count = 0;
  for (let at = 0; at < pixels.length; at += 3) {
    if (binOf(pixels, at) !== fullest) continue;
    count += 1;
    for (const channel of [0, 1, 2] as const) sums[channel] += pixels[at + channel] ?? 0;
  }
  return [sums[0] / count, sums[1] / count, sums[2] / count];
}

function foregroundShare(pixels: Uint8Array, background: readonly [number, number, number]): number {
  let count = 0;
  for (let at = 0; at < pixels.length; at += 3) {
    const far = background.some(
      (level, channel) => Math.abs((pixels[at + channel] ?? 0) - level) > foregroundThreshold,
    );
    if (far) count += 1;
  }
  return count / (pixels.length / 3);
}

function meanSaturation(pixels: Uint8Array): number {
  let sum = 0;
  for (let at = 0; at < pixels.length; at += 3) {
    const [red = 0, green = 0, blue = 0] = pixels.subarray(at, at + 3);
    sum += Math.max(red, green, blue) - Math.min(red, green, blue);
  }
  return sum / ((pixels.length / 3) * 255);
}
