import type { Event, ShapeName } from './captions.ts';
import { greys, palette } from './palette.ts';
import { coverageFloor, neighboursOf, regionsOf } from './segmentation.ts';
import type { SegmentedFrame } from './segmentation.ts';
import { findFurniture } from './tracking.ts';
import type { Placement, Track } from './tracking.ts';
import type { Check } from './verdict.ts';
import { groundTop, worldSize } from './world.ts';

/**
 * Limits of the picture checks. Levels are on the 0..1 scale of pixel values, areas in world units. Each stands clear
 * of pixel noise of 0.04 and is worst over frames unless said otherwise.
 */
const limits = {
  /** Root mean square deviation of background pixels from plain. */
  grain: 0.075,
  /** The same after averaging 3x3 pixels, where noise of 0.04 leaves 0.013: stripes, blotches, shading. */
  blotches: 0.045,
  /** Mean shift of the background's lightness. */
  lightness: 0.05,
  /** Mean shift of the background's chroma. */
  tint: 0.035,
  /** Deviation of one background pixel that makes it a stray pixel. */
  stray: 0.24,
  /** Stray pixels a frame, as a mean over the clip. */
  strayCount: 2.5,
  /** A second region of an object's colour is a second object from this share of the first. */
  second: 0.28,
  /** Area that an object may have at the start. */
  area: [18, 115],
  /** Least filled share of an object's outline, as a mean over frames. */
  fill: 0.6,
  /** Mean distance of an object's inner pixels from its colour. */
  purity: 0.3,
  /** By how much another shape must fit better before an object has the wrong shape. */
  shape: 0.06,
} as const;

/** The checks of the picture itself, whatever happens in it. */
export type PictureChecks = {
  /** The background is plain: no grain, stripes, blotches. */
  readonly texture: Check;
  /** The background and the ground have kept their grey. */
  readonly tint: Check;
  /** No coloured or dark pixels lie about. */
  readonly strayPixels: Check;
  /** Each named object is there once, and no furniture that the caption does not name. */
  readonly count: Check;
  /** Objects are of a sensible size, filled, and of the named shape. */
  readonly form: Check;
  /** Objects are of one even colour, the named one. */
  readonly colour: Check;
};

const percent = (value: number): string => `${Math.round(100 * value)}%`;
const verdict = (pass: boolean, good: string, bad: string): Check => ({ pass, reason: pass ? good : bad });

/** Pixels above the ground that are two pixels away from everything drawn. */
function openBackground(frame: SegmentedFrame): Uint8Array {
  const { width, height } = frame;
  let covered = new Uint8Array(width * height);
  for (const map of [...Object.values(frame.coverage), frame.furniture]) {
    for (const pixel of solidOnly(map, width, height, coverageFloor)) covered[pixel] = 1;
  }
  const reach = Math.max(2, Math.round((2 * width) / worldSize));
  for (let ring = 0; ring < reach; ring += 1) {
    const grown = covered.slice();
    for (let pixel = 0; pixel < covered.length; pixel += 1) {
      if (covered[pixel] === 0) continue;
      for (const neighbour of neighboursOf(pixel, width, height)) grown[neighbour] = 1;
    }
    covered = grown;
  }
  const groundRow = Math.floor(((groundTop - 1) / worldSize) * height);
  const open = new Uint8Array(width * height);
  for (let pixel = 0; pixel < groundRow * width; pixel += 1) open[pixel] = covered[pixel] === 1 ? 0 : 1;
  return open;
}

/** The regions of a map that are large enough to be something; smaller ones are strays and belong to the background. */
function solidOnly(map: Float32Array, width: number, height: number, floor: number): number[] {
  const smallest = 5 * (width / worldSize) ** 2;
  return regionsOf(map, width, height, floor).flatMap(({ pixels }) =>
    pixels.length >= smallest ? [...pixels] : [],
  );
}

type BackgroundReading = {
  grain: number;
  blotches: number;
  lightness: number;
  tint: number;
  strays: number;
};

function readBackground(frame: SegmentedFrame): BackgroundReading {
  const { width, height, lightness, chroma } = frame;
  const open = openBackground(frame);
  const pixels: number[] = [];
  open.forEach((isOpen, pixel) => {
    if (isOpen === 1) pixels.push(pixel);
  });
  const count = pixels.length;
  // Objects never cover the whole sky: without any open background there is nothing plain about the picture.
  if (count < 0.1 * width * height) return { grain: 1, blotches: 1, lightness: 1, tint: 1, strays: 0 };
  const [us, vs] = chroma;
  const [light, u, v] = [lightness, us, vs].map((part) => meanOver(part, pixels)) as [number, number, number];
  // Lightness and chroma are orthonormal up to this factor: squares add up to those of red, green and blue.
  const lightFactor = 3;
  let [squares, strays, blotchSquares, blotchCount] = [0, 0, 0, 0];
  const strayLimit = 2 * limits.stray ** 2;
  const squaresFrom = (l: number, mu: number, mv: number): number =>
    lightFactor * (l - light) ** 2 + (mu - u) ** 2 + (mv - v) ** 2;
  for (const pixel of pixels) {
    let [sumLight, sumU, sumV] = [lightness[pixel] ?? 0, us[pixel] ?? 0, vs[pixel] ?? 0];
    const off = squaresFrom(sumLight, sumU, sumV);
    // Counted as a stray pixel, it is not counted as grain as well.
    if (off > strayLimit) strays += 1;
    else squares += off / 3;
    if (!isSurrounded(pixel, open, width, height)) continue;
    for (const neighbour of neighboursOf(pixel, width, height)) {
      sumLight += lightness[neighbour] ?? 0;
      sumU += us[neighbour] ?? 0;
      sumV += vs[neighbour] ?? 0;
    }
    blotchSquares += squaresFrom(sumLight / 9, sumU / 9, sumV / 9) / 3;
    blotchCount += 1;
  }
  return {
    grain: Math.sqrt(squares / count),
    blotches: blotchCount === 0 ? 0 : Math.sqrt(blotchSquares / blotchCount),
    lightness: Math.abs(light - greys.background),
    tint: Math.hypot(u, v),
    strays: strays / (width / worldSize) ** 2,
  };
}

function meanOver(map: Float32Array, pixels: readonly number[]): number {
  let sum = 0;
  for (const pixel of pixels) sum += map[pixel] ?? 0;
  return sum / pixels.length;
}

/** True if all eight pixels around a pixel are open as well. */
function isSurrounded(pixel: number, open: Uint8Array, width: number, height: number): boolean {
  const around = neighboursOf(pixel, width, height);
  if (around.length < 8) return false;
  for (const neighbour of around) if (open[neighbour] === 0) return false;
  return true;
}

/** Mean lightness shift and tint of the ground, where no object is near. */
function readGround(frame: SegmentedFrame): { lightness: number; tint: number } {
  const { width, height, lightness, chroma } = frame;
  const from = Math.ceil(((groundTop + 1) / worldSize) * height);
  let [light, u, v, count] = [0, 0, 0, 0];
  for (let pixel = from * width; pixel < width * height; pixel += 1) {
    light += lightness[pixel] ?? 0;
    u += chroma[0][pixel] ?? 0;
    v += chroma[1][pixel] ?? 0;
    count += 1;
  }
  return { lightness: Math.abs(light / count - greys.ground), tint: Math.hypot(u / count, v / count) };
}

/** Whether a point, in half sizes from the middle of the bounding box, lies in a shape. */
function inside(shape: ShapeName, x: number, y: number): boolean {
  switch (shape) {
    case 'ball':
      return x * x + y * y <= 1;
    case 'block':
      return Math.abs(x) <= 1 && Math.abs(y) <= 1;
    case 'triangle':
      return Math.abs(y) <= 1 && Math.abs(x) <= (y + 1) / 2;
  }
}

const outlines: Readonly<Record<ShapeName, { side: number; top: number; bottom: number }>> = {
  ball: { side: 2, top: 2, bottom: 2 },
  block: { side: Math.sqrt(3), top: Math.sqrt(3), bottom: Math.sqrt(3) },
  triangle: { side: Math.sqrt(6), top: 2 * Math.SQRT2, bottom: Math.SQRT2 },
};

/**
 * How badly a shape of the region's own spread fits it: covered and uncovered area that disagree, over the region's
 * area. Also how much of that shape is filled.
 */
function fitShape(
  frame: SegmentedFrame,
  { object }: Track,
  at: Placement,
  shape: ShapeName,
): { misfit: number; fill: number } {
  const unit = worldSize / frame.width;
  const outline = outlines[shape];
  const [halfWidth, top, bottom] = [
    outline.side * at.spreadX,
    at.y - outline.top * at.spreadY,
    at.y + outline.bottom * at.spreadY,
  ];
  const [middle, halfHeight] = [(top + bottom) / 2, (bottom - top) / 2];
  const map = frame.coverage[object.colour];
  const reach = 1.5;
  let [difference, filled, size] = [0, 0, 0];
  const samples = 3;
  const range = (from: number, to: number, end: number): [number, number] => [
    Math.max(0, Math.floor((from - reach) / unit)),
    Math.min(end - 1, Math.ceil((to + reach) / unit)),
  ];
  const [x0, x1] = range(at.x - halfWidth, at.x + halfWidth, frame.width);
  const [y0, y1] = range(top, bottom, frame.height);
  for (let row = y0; row <= y1; row += 1) {
    for (let column = x0; column <= x1; column += 1) {
      let hits = 0;
      for (let sub = 0; sub < samples * samples; sub += 1) {
        const x = (column + ((sub % samples) + 0.5) / samples) * unit;
        const y = (row + (Math.floor(sub / samples) + 0.5) / samples) * unit;
        if (inside(shape, (x - at.x) / halfWidth, (y - middle) / halfHeight)) hits += 1;
      }
      const expected = hits / (samples * samples);
      const share = map[row * frame.width + column] ?? 0;
      difference += Math.abs(expected - share);
      filled += Math.min(expected, share);
      size += expected;
    }
  }
  return { misfit: (difference * unit * unit) / at.area, fill: size === 0 ? 0 : filled / size };
}

const mean = (values: readonly number[]): number =>
  values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;

const shapes: readonly ShapeName[] = ['ball', 'block', 'triangle'];

function checkForm(tracks: readonly Track[], frames: readonly SegmentedFrame[]): Check {
  for (const track of tracks) {
    const { colour, shape } = track.object;
    const it = `The ${colour} ${shape}`;
    // A body cut by the edge of the picture has neither its size nor its shape.
    const wholeBodies = track.placements.flatMap((at, index) =>
      at !== null && at.left > 0.3 && at.right < worldSize - 0.3 && at.top > 0.3 ? [{ at, index }] : [],
    );
    const start = wholeBodies[0]?.at;
    if (start === undefined) continue;
    if (start.area < limits.area[0] || start.area > limits.area[1]) {
      return {
        pass: false,
        reason: `${it} covers ${Math.round(start.area)} of 576 square units; objects cover ${limits.area[0]} to ${limits.area[1]}.`,
      };
    }
    // Half of the frames tell the form as well as all of them.
    const fits = wholeBodies
      .filter((_, index) => index % 2 === 0)
      .map(({ at, index }) =>
        shapes.map((candidate) => fitShape(frames[index] as SegmentedFrame, track, at, candidate)),
      );
    const own = shapes.indexOf(shape);
    const fill = mean(fits.map((fit) => fit[own]?.fill ?? 0));
    if (fill < limits.fill) {
      return { pass: false, reason: `${it} has holes: only ${percent(fill)} of its outline is filled.` };
    }
    const misfits = shapes.map((_, candidate) => mean(fits.map((fit) => fit[candidate]?.misfit ?? 0)));
    const best = misfits.indexOf(Math.min(...misfits));
    if ((misfits[own] ?? 0) > (misfits[best] ?? 0) + limits.shape) {
      return { pass: false, reason: `${it} looks like a ${shapes[best]}.` };
    }
  }
  return { pass: true, reason: 'Objects have the named shapes, filled and of a sensible size.' };
}

function checkColour(tracks: readonly Track[], frames: readonly SegmentedFrame[]): Check {
  for (const { object, placements } of tracks) {
    const [red, green, blue] = palette[object.colour];
    const level = (red + green + blue) / 3;
    const off = placements.flatMap((at, index) => {
      if (at === null) return [];
      const frame = frames[index] as SegmentedFrame;
      const map = frame.coverage[object.colour];
      const inner = at.region.pixels.filter((pixel) =>
        neighboursOf(pixel, frame.width, frame.height).every((neighbour) => (map[neighbour] ?? 0) > 0.5),
      );
      if (inner.length === 0) return [];
      const [u, v] = [(red - green) / Math.SQRT2, (red + green - 2 * blue) / Math.sqrt(6)];
      return [
        mean(
          inner.map((pixel) =>
            Math.hypot(
              ((frame.lightness[pixel] ?? 0) - level) * Math.sqrt(3),
              (frame.chroma[0][pixel] ?? 0) - u,
              (frame.chroma[1][pixel] ?? 0) - v,
            ),
          ),
        ),
      ];
    });
    if (Math.max(0, ...off) > limits.purity) {
      return { pass: false, reason: `The ${object.colour} ${object.shape} is not evenly ${object.colour}.` };
    }
  }
  return { pass: true, reason: 'Objects are evenly of their named colours.' };
}

function checkCount(event: Event, tracks: readonly Track[], frames: readonly SegmentedFrame[]): Check {
  for (const { object, placements } of tracks) {
    if (placements.every((at) => at === null)) {
      return { pass: false, reason: `There is no ${object.colour} ${object.shape}.` };
    }
    const doubled = placements.filter(
      (at) => at !== null && at.secondArea > Math.max(6, limits.second * at.area),
    ).length;
    if (doubled >= Math.max(2, frames.length / 4)) {
      return { pass: false, reason: `There is more than one ${object.colour} object.` };
    }
  }
  const furnished = ['take-out-of-box', 'take-off-table', 'fall-into-box'].includes(event.kind);
  const strange = frames.filter((frame) => findFurniture(frame) !== null).length;
  if (!furnished && strange >= Math.max(2, frames.length / 4)) {
    return {
      pass: false,
      reason: 'There is a box, a table or something like it, which the caption does not name.',
    };
  }
  return { pass: true, reason: 'Everything that is named is there once.' };
}

/**
 * Checks the pictures of a clip, frame by frame, apart from what happens in them.
 *
 * @param tracks of the objects that the caption names
 */
export function checkPicture(
  event: Event,
  frames: readonly SegmentedFrame[],
  tracks: readonly Track[],
): PictureChecks {
  const background = frames.map(readBackground);
  const ground = frames.map(readGround);
  const most = (key: keyof BackgroundReading): number =>
    Math.max(...background.map((reading) => reading[key]));
  const strays = mean(background.map((reading) => reading.strays));
  const [grain, blotches, lightness, tint] = [
    most('grain'),
    most('blotches'),
    most('lightness'),
    most('tint'),
  ];
  const groundLight = Math.max(...ground.map((reading) => reading.lightness));
  const groundTint = Math.max(...ground.map((reading) => reading.tint));
  return {
    texture: verdict(
      grain <= limits.grain && blotches <= limits.blotches,
      'The background is plain.',
      `The background is not plain: grain ${grain.toFixed(3)} (limit ${limits.grain}), blotches ${blotches.toFixed(3)} (limit ${limits.blotches}).`,
    ),
    tint: verdict(
      tint <= limits.tint && lightness <= limits.lightness && groundLight <= 0.12 && groundTint <= 0.08,
      'Background and ground have kept their grey.',
      `Background or ground are tinted: chroma off by ${Math.max(tint, groundTint).toFixed(3)}, lightness by ${Math.max(lightness, groundLight).toFixed(3)}.`,
    ),
    strayPixels: verdict(
      strays <= limits.strayCount,
      'No pixels lie about.',
      `${strays.toFixed(1)} stray pixels lie about in each frame (limit ${limits.strayCount}).`,
    ),
    count: checkCount(event, tracks, frames),
    form: checkForm(tracks, frames),
    colour: checkColour(tracks, frames),
  };
}
