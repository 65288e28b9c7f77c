import { invalidArgument } from '@plumb/kit/errors';

/** A short video, uncompressed. */
export type Clip = {
  /** Number of frames, 1 or more. */
  readonly frames: number;
  /** Pixels. */
  readonly height: number;
  /** Pixels. */
  readonly width: number;
  /** Frames per second of playback. */
  readonly fps: number;
  /** RGB, 0..255, laid out as [frames, height, width, 3]. */
  readonly data: Uint8Array;
};

/** The shape of a clip without its pixels. */
export type ClipShape = Omit<Clip, 'data'>;

/** Most pixels (frames x height x width) that a clip may have: 256 Mi, ten seconds of 1080p at 12 fps. */
export const maxClipPixels = 2 ** 28;

/** Bytes of a clip's pixels. */
export function clipBytes({ frames, height, width }: ClipShape): number {
  return frames * height * width * 3;
}

/**
 * Checks the numbers of a clip's shape.
 *
 * @throws PlumbError INVALID_ARGUMENT naming the number that is not a positive (whole) number or is over the limit
 */
export function checkClipShape(shape: ClipShape): void {
  for (const name of ['frames', 'height', 'width'] as const) {
    if (!Number.isSafeInteger(shape[name]) || shape[name] < 1) {
      throw invalidArgument(`clip.${name}`, `is ${shape[name]}; give a whole number of 1 or more`);
    }
  }
  if (!Number.isFinite(shape.fps) || shape.fps <= 0) {
    throw invalidArgument('clip.fps', `is ${shape.fps}; give a number of frames per second above 0`);
  }
  const pixels = shape.frames * shape.height * shape.width;
  if (pixels > maxClipPixels) {
    throw invalidArgument(
      'clip',
      `has ${shape.frames} x ${shape.height} x ${shape.width} = ${pixels} pixels, over the limit of ${maxClipPixels}; ` +
        'use fewer frames or a smaller picture',
    );
  }
}

/**
 * Checks a whole clip: its shape, and that there are exactly as many bytes as the shape says.
 *
 * @throws PlumbError INVALID_ARGUMENT naming the field and what it should be
 */
export function checkClip(clip: Clip): void {
  checkClipShape(clip);
  const expected = clipBytes(clip);
  if (clip.data.length !== expected) {
    throw invalidArgument(
      'clip.data',
      `has ${clip.data.length} bytes, but ${clip.frames} RGB frames of ${clip.width}x${clip.height} are ${expected}`,
    );
  }
}

/** The pixels of one frame, [height, width, 3], as a view and not a copy. */
export function frameOf(clip: Clip, index: number): Uint8Array {
  if (!Number.isInteger(index) || index < 0 || index >= clip.frames) {
    throw invalidArgument('frame', `is ${index}; the clip has frames 0 to ${clip.frames - 1}`);
  }
  const size = clip.height * clip.width * 3;
  return clip.data.subarray(index * size, (index + 1) * size);
}

/**
 * Indices of `count` frames spread evenly over a clip of `frames` frames, the first and the last among them; one frame
 * is the middle one. Asking for more frames than there are gives every frame once.
 *
 * @throws PlumbError INVALID_ARGUMENT when count is not a whole number of 1 or more
 */
export function sampleFrames(clip: Pick<Clip, 'frames'>, count: number): number[] {
  if (!Number.isSafeInteger(count) || count < 1) {
    throw invalidArgument('frames', `is ${count}; ask for 1 or more frames`);
  }
  if (count >= clip.frames) return Array.from({ length: clip.frames }, (_, index) => index);
  if (count === 1) return [Math.floor((clip.frames - 1) / 2)];
  return Array.from({ length: count }, (_, index) => Math.round((index * (clip.frames - 1)) / (count - 1)));
}

/**
 * Indices of `count` frames spread evenly over what happens: between two chosen frames about as much changes in the
 * picture as between any other two. The first and the last frame are among them. A clip in which nothing moves gets
 * evenly spaced frames.
 *
 * @throws PlumbError INVALID_ARGUMENT when count is not a whole number of 1 or more
 */
export function sampleFramesByMotion(clip: Clip, count: number): number[] {
  const even = sampleFrames(clip, count);
  if (count < 3 || count >= clip.frames) return even;
  // Travelled[i]: change of the picture from the first frame to frame i, step by step.
  const travelled = [0];
  for (let index = 1; index < clip.frames; index += 1) {
    const [before, after] = [frameOf(clip, index - 1), frameOf(clip, index)];
    let change = 0;
    for (let at = 0; at < after.length; at += 1) change += Math.abs((after[at] ?? 0) - (before[at] ?? 0));
    travelled.push((travelled[index - 1] ?? 0) + change);
  }
  const whole = travelled.at(-1) ?? 0;
  if (whole === 0) return even;
  const chosen: number[] = [0];
  for (let place = 1; place < count - 1; place += 1) {
    const wanted = (whole * place) / (count - 1);
    const nearest = travelled.reduce(
      (best, distance, index) =>
        Math.abs(distance - wanted) < Math.abs((travelled[best] ?? 0) - wanted) ? index : best,
      0,
    );
    // Every frame once, in order, with room for those that are still to come.
    chosen.push(Math.min(Math.max(nearest, (chosen.at(-1) ?? 0) + 1), clip.frames - count + place));
  }
  return [...chosen, clip.frames - 1];
}
