/** Animated pictures as clips. */

import { dataLoss } from '@plumb/kit/errors';
import sharp from 'sharp';
import { readApng } from './apng.ts';
import type { Clip } from './clip.ts';
import { checkLimits } from './clip-limits.ts';
import type { ClipLimits } from './clip-limits.ts';
import type { AnimationMediaType } from './media-types.ts';

/** Frames of an animation as they lie one after the other, before they are laid on a steady beat. */
export interface TimedFrames {
  readonly width: number;
  readonly height: number;
  /** RGB, [frames, height, width, 3]. */
  readonly data: Uint8Array;
  /** How long each frame is shown, in milliseconds. */
  readonly delays: readonly number[];
}

const signatures: Readonly<Record<AnimationMediaType, (bytes: Uint8Array) => boolean>> = {
  'image/gif': (bytes) => /^GIF8[79]a/.test(text(bytes, 0, 6)),
  'image/webp': (bytes) => text(bytes, 0, 4) === 'RIFF' && text(bytes, 8, 12) === 'WEBP',
  'image/apng': (bytes) => text(bytes, 1, 4) === 'PNG',
};

/**
 * Reads an animated WebP, GIF or PNG. Transparent parts are black. The clip's rate is that of its shortest frame, and a
 * frame that is shown for longer is repeated: encoders merge frames that are alike.
 *
 * @param fps frames a second, where the caller knows better than the times in the file
 * @throws PlumbError INVALID_ARGUMENT over the limits, which are looked at before pixels are decoded; DATA_LOSS when the
 *   bytes are no intact picture of that type
 */
export async function decodeAnimation(
  bytes: Uint8Array,
  mediaType: AnimationMediaType,
  limits: ClipLimits,
  fps?: number,
): Promise<Clip> {
  const name = mediaType.slice('image/'.length).toUpperCase();
  // The picture library would find out itself what it is given, SVG and PDF among it.
  if (!signatures[mediaType](bytes)) throw dataLoss(`a clip of ${bytes.length} bytes is not a ${name}`);
  const frames =
    mediaType === 'image/apng' ? await readApng(bytes, limits) : await readPages(bytes, name, limits);
  return onBeat(frames, name, limits, fps);
}

async function readPages(bytes: Uint8Array, name: string, limits: ClipLimits): Promise<TimedFrames> {
  let found;
  try {
    found = await sharp(bytes, { limitInputPixels: false, pages: -1 }).metadata();
  } catch (error) {
    throw dataLoss(`the ${name} of a clip is corrupt: its header cannot be read`, { cause: error });
  }
  const { width, pages: frames = 1, pageHeight: height = found.height } = found;
  checkLimits(`the ${name}`, { frames, height, width }, limits);
  let data: Uint8Array;
  try {
    const pixels = await sharp(bytes, { pages: -1, limitInputPixels: limits.maxPixels, failOn: 'warning' })
      .toColourspace('srgb')
      .flatten({ background: 'black' })
      .raw()
      .toBuffer();
    data = new Uint8Array(pixels);
  } catch (error) {
    throw dataLoss(`the ${name} of a clip is corrupt: its pixels cannot be read`, { cause: error });
  }
  if (data.length !== frames * height * width * 3) {
    throw dataLoss(
      `the ${name} of a clip gave ${data.length} bytes of pixels for ${frames} frames of ${width}x${height}`,
    );
  }
  const delays = Array.from({ length: frames }, (_, index) => found.delay?.[index] ?? 0);
  return { width, height, data, delays };
}

/** Delays up to this are shown as 100 ms by every browser: old encoders wrote 0 and meant "as usual". */
const unusualDelayMs = 10;

function onBeat(timed: TimedFrames, name: string, limits: ClipLimits, fps: number | undefined): Clip {
  const { width, height, data } = timed;
  const delays = timed.delays.map((delay) => (delay > unusualDelayMs ? delay : 100));
  const beat = Math.min(...delays);
  const repeats = delays.map((delay) => Math.max(1, Math.round(delay / beat)));
  const frames = repeats.reduce((sum, count) => sum + count, 0);
  checkLimits(`the ${name}`, { frames, height, width }, limits);
  const rate = fps ?? 1000 / beat;
  if (frames === delays.length) return { frames, height, width, fps: rate, data };
  const size = width * height * 3;
  const out = new Uint8Array(frames * size);
  let at = 0;
  for (const [index, count] of repeats.entries()) {
    const frame = data.subarray(index * size, (index + 1) * size);
    for (let copy = 0; copy < count; copy += 1, at += size) out.set(frame, at);
  }
  return { frames, height, width, fps: rate, data: out };
}

function text(bytes: Uint8Array, from: number, to: number): string {
  return String.fromCodePoint(...bytes.subarray(from, to));
}
