import type { Clip } from '@plumb/media';
import type { ColourName } from './palette.ts';
import { colourNames, greys, palette } from './palette.ts';
import { groundTop, worldSize } from './world.ts';

/**
 * One frame, taken apart. Everything but the objects is neutral grey, so a pixel's chroma (its colour without its
 * grey) is the object's chroma times the share of the pixel that the object covers, whatever lies behind it.
 */
export type SegmentedFrame = {
  /** For each colour, the covered share of each pixel, 0..1; 0 below {@link coverageFloor}. [height * width] */
  readonly coverage: Readonly<Record<ColourName, Float32Array>>;
  /** Share of each pixel above the ground that is furniture, 0..1. [height * width] */
  readonly furniture: Float32Array;
  /** Chroma as two coordinates in the plane across the grey axis. [height * width] each */
  readonly chroma: readonly [Float32Array, Float32Array];
  /** Mean of red, green and blue, 0..1. [height * width] */
  readonly lightness: Float32Array;
  readonly width: number;
  readonly height: number;
};

/** Coverage below this is taken for noise: it is four standard deviations of pixel noise of 0.04. */
export const coverageFloor = 0.25;
/** A furniture share below this is noise or a soft edge; noise of 0.04 makes 0.045 of share. */
const furnitureFloor = 0.3;
/** Chroma above this is no grey: three standard deviations of pixel noise of 0.04. */
const greyChroma = 0.14;

/** The two chroma coordinates: orthonormal directions in the plane across the grey axis. */
function chromaOf(red: number, green: number, blue: number): [number, number] {
  return [(red - green) / Math.SQRT2, (red + green - 2 * blue) / Math.sqrt(6)];
}

const references = colourNames.map((name) => {
  const [u, v] = chromaOf(...palette[name]);
  const length = Math.hypot(u, v);
  return { name, u: u / length, v: v / length, length };
});

/** Index of the colour whose hue is nearest to a chroma. */
function nearestColour(u: number, v: number): number {
  let best = 0;
  let bestCosine = -Infinity;
  for (let index = 0; index < references.length; index += 1) {
    const reference = references[index];
    if (reference === undefined) continue;
    const along = u * reference.u + v * reference.v;
    if (along > bestCosine) {
      bestCosine = along;
      best = index;
    }
  }
  return best;
}

/** Takes every frame of a clip apart. */
export function segment(clip: Clip): SegmentedFrame[] {
  const pixels = clip.height * clip.width;
  const groundRow = (groundTop / worldSize) * clip.height;
  return Array.from({ length: clip.frames }, (_, frame) => {
    const coverage = Object.fromEntries(
      colourNames.map((name) => [name, new Float32Array(pixels)]),
    ) as Record<ColourName, Float32Array>;
    const furniture = new Float32Array(pixels);
    const chroma = [new Float32Array(pixels), new Float32Array(pixels)] as const;
    const lightness = new Float32Array(pixels);
    for (let pixel = 0; pixel < pixels; pixel += 1) {
      const at = (frame * pixels + pixel) * 3;
      const red = (clip.data[at] ?? 0) / 255;
      const green = (clip.data[at + 1] ?? 0) / 255;
      const blue = (clip.data[at + 2] ?? 0) / 255;
      const light = (red + green + blue) / 3;
      const u = (red - green) / Math.SQRT2;
      const v = (red + green - 2 * blue) / Math.sqrt(6);
      chroma[0][pixel] = u;
      chroma[1][pixel] = v;
      lightness[pixel] = light;
      const reference = references[nearestColour(u, v)];
      if (reference !== undefined) {
        const share = (u * reference.u + v * reference.v) / reference.length;
        if (share >= coverageFloor) coverage[reference.name][pixel] = Math.min(1, share);
      }
      if (Math.hypot(u, v) < greyChroma && Math.floor(pixel / clip.width) + 0.5 < groundRow) {
        const share = (greys.background - light) / (greys.background - greys.furniture);
        if (share >= furnitureFloor) furniture[pixel] = Math.min(1, share);
      }
    }
    return { coverage, furniture, chroma, lightness, width: clip.width, height: clip.height };
  });
}

/** A connected region of covered pixels. */
export type Region = { readonly pixels: readonly number[]; readonly area: number };

/** Regions of a map, pixels touching by side or corner, the largest area (in pixels) first. */
export function regionsOf(map: Float32Array, width: number, height: number, floor: number): Region[] {
  const seen = new Uint8Array(map.length);
  const regions: Region[] = [];
  for (let start = 0; start < map.length; start += 1) {
    if (seen[start] === 1 || (map[start] ?? 0) < floor) continue;
    const pixels = [start];
    seen[start] = 1;
    let area = 0;
    for (let next = 0; next < pixels.length; next += 1) {
      const pixel = pixels[next] ?? 0;
      area += map[pixel] ?? 0;
      for (const neighbour of neighboursOf(pixel, width, height)) {
        if (seen[neighbour] === 1 || (map[neighbour] ?? 0) < floor) continue;
        seen[neighbour] = 1;
        pixels.push(neighbour);
      }
    }
    regions.push({ pixels, area });
  }
  return regions.toSorted((a, b) => b.area - a.area);
}

/** Of the picture size seen last: clips of one run are all of one size. */
let neighbourTable: { width: number; height: number; of: readonly (readonly number[])[] } | undefined;

/** The up to eight pixels around a pixel. */
export function neighboursOf(pixel: number, width: number, height: number): readonly number[] {
  if (neighbourTable?.width !== width || neighbourTable.height !== height) {
    const of = Array.from({ length: width * height }, (_, at) => findNeighbours(at, width, height));
    neighbourTable = { width, height, of };
  }
  return neighbourTable.of[pixel] ?? [];
}

function findNeighbours(pixel: number, width: number, height: number): number[] {
  const [x, y] = [pixel % width, Math.floor(pixel / width)];
  const found: number[] = [];
  for (let ny = Math.max(0, y - 1); ny <= Math.min(height - 1, y + 1); ny += 1) {
    for (let nx = Math.max(0, x - 1); nx <= Math.min(width - 1, x + 1); nx += 1) {
      if (nx !== x || ny !== y) found.push(ny * width + nx);
    }
  }
  return found;
}
