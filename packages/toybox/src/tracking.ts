import type { NamedObject, ShapeName } from './captions.ts';
import type { ColourName } from './palette.ts';
import { colourNames } from './palette.ts';
import { neighboursOf, regionsOf } from './segmentation.ts';
import type { Region, SegmentedFrame } from './segmentation.ts';
import { worldSize } from './world.ts';

/** Where an object is in one frame. All lengths are in world units (24 across the picture), y downwards. */
export type Placement = {
  /** Square units. */
  readonly area: number;
  /** Centroid. */
  readonly x: number;
  readonly y: number;
  /** Spread around the centroid (standard deviation of the covered area). */
  readonly spreadX: number;
  readonly spreadY: number;
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
  /** Area of the largest further region of the same colour, in square units. */
  readonly secondArea: number;
  readonly region: Region;
};

/** An object over the clip; a frame is null where nothing of its colour can be seen. */
export type Track = { readonly object: NamedObject; readonly placements: readonly (Placement | null)[] };

/**
 * Distance from the centroid to the edges, in standard deviations: a disc of radius r has spread r/2, a bar of half
 * width h has h/sqrt(3), an isosceles triangle of base b and height h has b/sqrt(24) and h/sqrt(18).
 */
const edges: Readonly<Record<ShapeName, { side: number; top: number; bottom: number }>> = {
  ball: { side: 2, top: 2, bottom: 2 },
  block: { side: Math.sqrt(3), top: Math.sqrt(3), bottom: Math.sqrt(3) },
  triangle: { side: Math.sqrt(6), top: 2 * Math.SQRT2, bottom: Math.SQRT2 },
};

/** A speck smaller than this many square units is not an object. */
const smallestArea = 5;

/** The main region of an object's colour in one frame. */
function placementOf(frame: SegmentedFrame, { colour, shape }: NamedObject): Placement | null {
  const map = frame.coverage[colour];
  const unit = worldSize / frame.width;
  const [main, second] = regionsOf(map, frame.width, frame.height, 0.35);
  if (main === undefined) return null;
  const pixels = new Set(main.pixels);
  // The faint rim belongs to the object too: its shares decide the centroid to a fraction of a pixel.
  for (const pixel of main.pixels) {
    for (const neighbour of neighboursOf(pixel, frame.width, frame.height)) {
      if ((map[neighbour] ?? 0) > 0) pixels.add(neighbour);
    }
  }
  let [area, sumX, sumY, sumXX, sumYY] = [0, 0, 0, 0, 0];
  for (const pixel of pixels) {
    const weight = map[pixel] ?? 0;
    const x = ((pixel % frame.width) + 0.5) * unit;
    const y = (Math.floor(pixel / frame.width) + 0.5) * unit;
    area += weight;
    sumX += weight * x;
    sumY += weight * y;
    sumXX += weight * x * x;
    sumYY += weight * y * y;
  }
  if (area * unit * unit < smallestArea) return null;
  const [x, y] = [sumX / area, sumY / area];
  // A pixel is an average over a square, which adds 1/12 of a squared pixel to the variance.
  const blur = (unit * unit) / 12;
  const spreadX = Math.sqrt(Math.max(blur, sumXX / area - x * x - blur));
  const spreadY = Math.sqrt(Math.max(blur, sumYY / area - y * y - blur));
  const edge = edges[shape];
  return {
    area: area * unit * unit,
    x,
    y,
    spreadX,
    spreadY,
    left: x - edge.side * spreadX,
    right: x + edge.side * spreadX,
    top: y - edge.top * spreadY,
    bottom: y + edge.bottom * spreadY,
    secondArea: (second?.area ?? 0) * unit * unit,
    region: main,
  };
}

/** Follows an object through the clip by its colour. */
export function trackObject(frames: readonly SegmentedFrame[], object: NamedObject): Track {
  return { object, placements: frames.map((frame) => placementOf(frame, object)) };
}

/** The box or table in one frame, in world units. */
export type FurniturePlacement = {
  readonly area: number;
  readonly x: number;
  readonly y: number;
  readonly left: number;
  readonly right: number;
  readonly top: number;
};

/** Rows or columns with at least this much furniture, in units, belong to its outline. */
const outlineWidth = 1.3;

/** Finds the furniture of one frame; null where there is less of it than any box or table has. */
export function findFurniture(frame: SegmentedFrame): FurniturePlacement | null {
  const unit = worldSize / frame.width;
  const rows = new Float64Array(frame.height);
  const columns = new Float64Array(frame.width);
  let [area, sumX, sumY] = [0, 0, 0];
  frame.furniture.forEach((share, pixel) => {
    const [x, y] = [pixel % frame.width, Math.floor(pixel / frame.width)];
    rows[y] = (rows[y] ?? 0) + share * unit;
    columns[x] = (columns[x] ?? 0) + share * unit;
    area += share;
    sumX += share * (x + 0.5) * unit;
    sumY += share * (y + 0.5) * unit;
  });
  if (area * unit * unit < 12) return null;
  const isOutline = (length: number): boolean => length >= outlineWidth;
  return {
    area: area * unit * unit,
    x: sumX / area,
    y: sumY / area,
    left: columns.findIndex(isOutline) * unit,
    right: (columns.findLastIndex(isOutline) + 1) * unit,
    top: rows.findIndex(isOutline) * unit,
  };
}

/** Furniture over the clip. */
export function trackFurniture(frames: readonly SegmentedFrame[]): (FurniturePlacement | null)[] {
  return frames.map(findFurniture);
}

/** The largest region of a colour that the caption does not name, in square units. */
export type ForeignRegion = { readonly colour: ColourName; readonly area: number };

/** Fainter pixels are soft edges of something else. */
const foreignFloor = 0.35;

/**
 * Finds the largest region of a colour that the caption does not name. Where two named objects touch, their colours mix
 * to a third in the pixels between them: those are left out.
 */
export function foreignRegion(frame: SegmentedFrame, expected: readonly ColourName[]): ForeignRegion {
  const unit = worldSize / frame.width;
  let found: ForeignRegion = { colour: 'red', area: 0 };
  for (const colour of colourNames) {
    if (expected.includes(colour)) continue;
    let map = frame.coverage[colour];
    if (!map.some((share) => share >= foreignFloor)) continue;
    if (expected.length > 1) {
      map = map.map((share, pixel) => {
        if (share === 0) return 0;
        const around = neighboursOf(pixel, frame.width, frame.height);
        const isBetween = expected.every((name) =>
          around.some((neighbour) => (frame.coverage[name][neighbour] ?? 0) > 0),
        );
        return isBetween ? 0 : share;
      });
    }
    const area = (regionsOf(map, frame.width, frame.height, foreignFloor)[0]?.area ?? 0) * unit * unit;
    if (area > found.area) found = { colour, area };
  }
  return found;
}
