/** From a frame to the input of a vision tower: resize, crop, scale to 0..1, normalise. */

import { dataLoss } from '@plumb/kit/errors';
import { z } from 'zod';
import type { ImagePreprocessing } from './definition.ts';
import { resample } from './resample.ts';
import type { Picture } from './resample.ts';

/** Width and height of what comes out; undefined where they depend on the picture. */
export function outputSize(settings: ImagePreprocessing): { width: number; height: number } | undefined {
  const { crop, resize } = settings;
  if (crop !== undefined) return { width: crop.width, height: crop.height };
  if (resize.mode === 'longest-edge') return { width: resize.size, height: resize.size };
  return resize.mode === 'exact' ? { width: resize.width, height: resize.height } : undefined;
}

function resized(picture: Picture, { resize, interpolation }: ImagePreprocessing): Picture {
  const { width, height } = picture;
  switch (resize.mode) {
    case 'exact':
      return resample(picture, resize.width, resize.height, interpolation);
    case 'shortest-edge': {
      const long = Math.trunc((resize.size * Math.max(width, height)) / Math.min(width, height));
      return width <= height
        ? resample(picture, resize.size, long, interpolation)
        : resample(picture, long, resize.size, interpolation);
    }
    case 'longest-edge': {
      const scale = resize.size / Math.max(width, height);
      const scaled = (side: number): number => Math.max(1, roundHalfEven(side * scale));
      const small = resample(picture, scaled(width), scaled(height), interpolation);
      return window(small, resize.size, resize.size, Math.floor);
    }
  }
}

/** As Python rounds. */
function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** The middle of a picture; what lies outside of it is black. `round` decides where the middle is when there is a choice. */
function window(picture: Picture, width: number, height: number, round: (value: number) => number): Picture {
  if (width === picture.width && height === picture.height) return picture;
  // Where the picture is smaller, the room around it is shared out with the smaller half first.
  const offset = (from: number, to: number): number =>
    from >= to ? round((from - to) / 2) : -Math.floor((to - from) / 2);
  const [left, top] = [offset(picture.width, width), offset(picture.height, height)];
  const data = new Uint8Array(width * height * 3);
  const from = Math.max(0, left);
  const columns = Math.min(picture.width, left + width) - from;
  for (let y = Math.max(0, -top); y < height && y + top < picture.height; y += 1) {
    const start = ((y + top) * picture.width + from) * 3;
    data.set(picture.data.subarray(start, start + columns * 3), (y * width + from - left) * 3);
  }
  return { width, height, data };
}

/**
 * Writes a frame into `target` as float32 [3, height, width].
 *
 * @returns width and height, those of `outputSize`
 */
export function preprocess(
  frame: Picture,
  settings: ImagePreprocessing,
  target: Float32Array,
  offset: number,
): void {
  const { crop, mean, std } = settings;
  const sized = resized(frame, settings);
  const { width, height, data } =
    crop === undefined
      ? sized
      : window(sized, crop.width, crop.height, crop.rounding === 'half-even' ? roundHalfEven : Math.floor);
  for (const channel of [0, 1, 2] as const) {
    const plane = offset + channel * width * height;
    // All 256 values of a channel, so that a pixel costs a look-up.
    const values = Float32Array.from(
      { length: 256 },
      (_, level) => (level / 255 - mean[channel]) / std[channel],
    );
    for (let pixel = 0; pixel < width * height; pixel += 1) {
      target[plane + pixel] = values[data[pixel * 3 + channel] ?? 0] ?? 0;
    }
  }
}

/** Pillow's numbers of filters, as in `resample` of preprocessor_config.json. */
const resampling: Readonly<Record<number, ImagePreprocessing['interpolation']>> = {
  0: 'nearest',
  1: 'lanczos',
  2: 'bilinear',
  3: 'bicubic',
};

const sideLength = z.int().min(1).max(4096);
const sidesSchema = z.object({ height: sideLength, width: sideLength });

/** What counts in the preprocessor_config.json of a CLIPImageProcessor (Hugging Face transformers). */
const preprocessorConfigSchema = z.object({
  do_resize: z.literal(true),
  do_rescale: z.literal(true).default(true),
  do_normalize: z.literal(true),
  do_center_crop: z.boolean().default(true),
  rescale_factor: z
    .number()
    .min(0.00392)
    .max(0.00393)
    .default(1 / 255),
  resample: z.int().min(0).max(3),
  // Older files give a number for both.
  size: z.union([sideLength, z.object({ shortest_edge: sideLength }), sidesSchema]),
  crop_size: z.union([sideLength, sidesSchema]).optional(),
  image_mean: z.tuple([z.number(), z.number(), z.number()]),
  image_std: z.tuple([z.number(), z.number(), z.number()]),
});

/**
 * The settings in a preprocessor_config.json.
 *
 * @param source what is being read, for errors
 * @throws PlumbError DATA_LOSS naming what is missing or not what a CLIPImageProcessor does
 */
export function preprocessingOf(json: Uint8Array, source: string): ImagePreprocessing {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(json).toString('utf8'));
  } catch (error) {
    throw dataLoss(`${source} is no JSON`, { cause: error });
  }
  const parsed = preprocessorConfigSchema.safeParse(value);
  if (!parsed.success) {
    throw dataLoss(
      `${source} is no preprocessor_config.json of a CLIPImageProcessor: ${z.prettifyError(parsed.error)}; ` +
        'write the settings out under image in the reward definition instead',
    );
  }
  const {
    size,
    crop_size: crop,
    do_center_crop: crops,
    resample: filter,
    image_mean,
    image_std,
  } = parsed.data;
  return {
    resize:
      typeof size === 'number'
        ? { mode: 'shortest-edge', size }
        : 'shortest_edge' in size
          ? { mode: 'shortest-edge', size: size.shortest_edge }
          : { mode: 'exact', width: size.width, height: size.height },
    ...(crops && crop !== undefined
      ? {
          crop:
            typeof crop === 'number'
              ? { width: crop, height: crop, rounding: 'down' as const }
              : { width: crop.width, height: crop.height, rounding: 'down' as const },
        }
      : {}),
    interpolation: resampling[filter] ?? 'bicubic',
    mean: image_mean,
    std: image_std,
  };
}
