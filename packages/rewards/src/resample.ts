/**
 * Resizing of 8-bit pictures, bit for bit as Pillow's `Image.resize` does it up to version 12: CLIPs were trained on its
 * output. Pillow 13 resizes some pictures along their height first, which changes some pixels by one level.
 */

import type { ImagePreprocessing } from './definition.ts';

/** A picture of 8-bit RGB, [height, width, 3]. */
export interface Picture {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

type Interpolation = ImagePreprocessing['interpolation'];

/** Bits of the fixed-point weights, as in Pillow: 8 are left for the level and 2 for overshoot. */
const precisionBits = 32 - 8 - 2;

/** Half the width of a filter, in output pixels, and its value at a distance of 0 or more. */
const filters: Readonly<
  Record<Exclude<Interpolation, 'nearest'>, { support: number; at: (x: number) => number }>
> = {
  bilinear: { support: 1, at: (x) => (x < 1 ? 1 - x : 0) },
  // Cubic convolution with a = -0.5 (Keys 1981).
  bicubic: {
    support: 2,
    at: (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0),
  },
  lanczos: { support: 3, at: (x) => (x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

function sinc(x: number): number {
  if (x === 0) return 1;
  return Math.sin(x * Math.PI) / (x * Math.PI);
}

/** The input pixels that make one output pixel, and their weights in fixed point. */
interface Tap {
  readonly first: number;
  readonly weights: Int32Array;
}

/** Antialiased taps of one axis: where it shrinks, the filter is as many times wider. */
function tapsOf(from: number, to: number, interpolation: Exclude<Interpolation, 'nearest'>): Tap[] {
  const { support: half, at } = filters[interpolation];
  const scale = from / to;
  const filterScale = Math.max(scale, 1);
  const support = half * filterScale;
  return Array.from({ length: to }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(from, Math.trunc(centre + support + 0.5));
    const exact = Float64Array.from({ length: end - first }, (_, tap) =>
      at(Math.abs((tap + first - centre + 0.5) * (1 / filterScale))),
    );
    const sum = exact.reduce((total, weight) => total + weight, 0);
    const weights = Int32Array.from(exact, (weight) => {
      const fixed = (sum === 0 ? weight : weight * (1 / sum)) * 2 ** precisionBits;
      return Math.trunc(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
    });
    return { first, weights };
  });
}

/** A level from a sum in fixed point: rounded, and kept within 0..255. */
function levelOf(sum: number): number {
  const level = sum >> precisionBits;
  return level < 0 ? 0 : level > 255 ? 255 : level;
}

/**
 * One axis of a picture that is seen as `lines` of `length` pixels.
 * @param step distance of neighbouring pixels along the axis, in numbers; `line` that of neighbouring lines
 */
function alongAxis(
  source: Uint8Array,
  target: Uint8Array,
  taps: readonly Tap[],
  lines: number,
  from: { readonly step: number; readonly line: number },
  to: { readonly step: number; readonly line: number },
): void {
  const half = 1 << (precisionBits - 1);
  for (let line = 0; line < lines; line += 1) {
    for (const [index, { first, weights }] of taps.entries()) {
      let red = half;
      let green = half;
      let blue = half;
      let at = line * from.line + first * from.step;
      for (const weight of weights) {
        red += (source[at] ?? 0) * weight;
        green += (source[at + 1] ?? 0) * weight;
        blue += (source[at + 2] ?? 0) * weight;
        at += from.step;
      }
      const out = line * to.line + index * to.step;
      target[out] = levelOf(red);
      target[out + 1] = levelOf(green);
      target[out + 2] = levelOf(blue);
    }
  }
}

/** Which input pixel each output pixel of an axis is. The place is added up, as Pillow does it, with its rounding errors. */
function nearestOf(from: number, to: number): Int32Array {
  const step = from / to;
  const found = new Int32Array(to);
  let place = step * 0.5;
  for (let index = 0; index < to; index += 1) {
    found[index] = Math.min(from - 1, Math.trunc(place));
    place += step;
  }
  return found;
}

function nearest(picture: Picture, width: number, height: number): Picture {
  const columns = nearestOf(picture.width, width);
  const data = new Uint8Array(width * height * 3);
  for (const [y, fromY] of nearestOf(picture.height, height).entries()) {
    for (const [x, fromX] of columns.entries()) {
      const at = (fromY * picture.width + fromX) * 3;
      data.set(picture.data.subarray(at, at + 3), (y * width + x) * 3);
    }
  }
  return { width, height, data };
}

/** The picture at another size: first along its width, then along its height, rounded to levels in between. */
export function resample(
  picture: Picture,
  width: number,
  height: number,
  interpolation: Interpolation,
): Picture {
  if (interpolation === 'nearest') return nearest(picture, width, height);
  let { data } = picture;
  if (width !== picture.width) {
    const narrowed = new Uint8Array(width * picture.height * 3);
    alongAxis(
      data,
      narrowed,
      tapsOf(picture.width, width, interpolation),
      picture.height,
      { step: 3, line: picture.width * 3 },
      { step: 3, line: width * 3 },
    );
    data = narrowed;
  }
  if (height !== picture.height) {
    const lowered = new Uint8Array(width * height * 3);
    alongAxis(
      data,
      lowered,
      tapsOf(picture.height, height, interpolation),
      width,
      { step: width * 3, line: 3 },
      { step: width * 3, line: 3 },
    );
    data = lowered;
  }
  return { width, height, data };
}
