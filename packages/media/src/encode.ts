import { dataLoss, invalidArgument } from '@plumb/kit/errors';
import sharp from 'sharp';
import { checkClip, checkClipShape, clipBytes, frameOf } from './clip.ts';
import type { Clip, ClipShape } from './clip.ts';
import { filmStripMediaType } from './media-types.ts';
import { encodeSmallPng, mostSmallPixels } from './small-png.ts';

/** Media type of an encoded clip: all frames, one below the other, in one PNG. */
export const clipMediaType = filmStripMediaType;
/** Media type of a preview. */
export const previewMediaType = 'image/webp';

/** Longest side of a picture that an encoder is asked for, in pixels; WebP's own limit is 16383. */
const maxPictureSide = 16_383;

const pngSignature = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a] as const;

const rgb = (width: number, height: number) => ({ raw: { width, height, channels: 3 as const } });

/**
 * The clip as a film strip: one PNG of `width` by `frames * height` pixels. Lossless: decodeClip gives the same bytes
 * back. Shape and fps are not in the file, they travel beside it.
 *
 * @throws PlumbError INVALID_ARGUMENT when data and shape disagree
 */
export async function encodeClip(clip: Clip): Promise<Uint8Array> {
  checkClip(clip);
  const png = sharp(clip.data, rgb(clip.width, clip.frames * clip.height)).png({ compressionLevel: 6 });
  return bytesOf(png);
}

/**
 * Reads a film strip. The picture must be exactly as large as the shape says, which also bounds what is decompressed:
 * the size in the file's header is compared before any pixel is.
 *
 * @throws PlumbError INVALID_ARGUMENT when the shape is impossible or over the limit, or the picture has another size
 * (CLIP_MISMATCH); DATA_LOSS when the bytes are no intact PNG of 8-bit RGB
 */
export async function decodeClip(bytes: Uint8Array, shape: ClipShape): Promise<Clip> {
  checkClipShape(shape);
  if (!pngSignature.every((byte, index) => bytes[index] === byte)) {
    throw dataLoss(`a clip of ${bytes.length} bytes is not a PNG; write clips with encodeClip`);
  }
  const height = shape.frames * shape.height;
  const picture = sharp(bytes, { limitInputPixels: shape.width * height, failOn: 'warning' });
  // A header that is right in every byte needs no second reader.
  if (!isFilmStrip(bytes, shape)) await checkHeader(bytes, shape);
  let data: Uint8Array;
  try {
    data = new Uint8Array(await picture.raw().toBuffer());
  } catch (error) {
    throw dataLoss('the PNG of a clip is corrupt: its pixels cannot be read', { cause: error });
  }
  if (data.length !== clipBytes(shape)) {
    throw dataLoss(`the PNG of a clip holds ${data.length} bytes of pixels instead of ${clipBytes(shape)}`);
  }
  return { ...shape, data };
}

/** Says what is wrong with the header of a film strip. A palette in place of RGB is nothing wrong. */
async function checkHeader(bytes: Uint8Array, shape: ClipShape): Promise<void> {
  const height = shape.frames * shape.height;
  let found;
  try {
    // The limit is not applied to the header, so that a picture of another size can be told from a broken one.
    found = await sharp(bytes, { limitInputPixels: false }).metadata();
  } catch (error) {
    throw dataLoss('the PNG of a clip is corrupt: its header cannot be read', { cause: error });
  }
  if (found.width !== shape.width || found.height !== height) {
    throw invalidArgument(
      'clip',
      `the film strip is ${found.width}x${found.height} pixels, but ${shape.frames} frames of ` +
        `${shape.width}x${shape.height} need ${shape.width}x${height}; give the shape that it was written with`,
      { reason: 'CLIP_MISMATCH' },
    );
  }
  if (found.channels !== 3 || found.depth !== 'uchar') {
    throw dataLoss(
      `the PNG of a clip has ${found.channels} channels of type ${found.depth}; it must be 8-bit RGB`,
    );
  }
}

export type ScaleOptions = {
  /** Whole factor by which width and height grow, pixels staying sharp squares; default 1. */
  readonly scale?: number;
};

/** Repeats every pixel of a [height, width, 3] picture `scale` times both ways. */
export function enlarge(picture: Uint8Array, width: number, height: number, scale: number): Uint8Array {
  if (!Number.isInteger(scale) || scale < 1 || Math.max(width, height) * scale > maxPictureSide) {
    throw invalidArgument(
      'scale',
      `is ${scale}; give a whole number of 1 or more that keeps ${width}x${height} within ${maxPictureSide} pixels`,
    );
  }
  if (scale === 1) return picture;
  const rowBytes = width * scale * 3;
  const out = new Uint8Array(rowBytes * height * scale);
  for (let y = 0; y < height; y += 1) {
    const start = y * scale * rowBytes;
    let to = start;
    for (let from = y * width * 3; from < (y + 1) * width * 3; from += 3) {
      const red = picture[from] ?? 0;
      const green = picture[from + 1] ?? 0;
      const blue = picture[from + 2] ?? 0;
      // Byte by byte: a view of each pixel would be 65,000 small objects for a clip.
      for (let copy = 0; copy < scale; copy += 1) {
        out[to] = red;
        out[to + 1] = green;
        out[to + 2] = blue;
        to += 3;
      }
    }
    for (let copy = 1; copy < scale; copy += 1) {
      out.copyWithin(start + copy * rowBytes, start, start + rowBytes);
    }
  }
  return out;
}

/**
 * An animated preview for people, looping for ever. For nothing else: WebP encoders merge identical neighbouring
 * frames, so a clip in which nothing moves would come back with fewer frames, and times are rounded to milliseconds.
 *
 * @throws PlumbError INVALID_ARGUMENT when data and shape disagree or the scale is no whole number or too large
 */
export async function encodePreview(
  clip: Clip,
  options: ScaleOptions & { readonly format?: 'webp' } = {},
): Promise<Uint8Array> {
  checkClip(clip);
  const scale = options.scale ?? 8;
  const [width, height] = [clip.width * scale, clip.height * scale];
  const frames = Array.from({ length: clip.frames }, (_, index) =>
    enlarge(frameOf(clip, index), clip.width, clip.height, scale),
  );
  const strip = sharp(Buffer.concat(frames), {
    raw: { width, height: height * clip.frames, channels: 3, pageHeight: height },
    limitInputPixels: false,
  });
  const delay = Array.from({ length: clip.frames }, () => Math.round(1000 / clip.fps));
  return bytesOf(strip.webp({ lossless: true, effort: 2, loop: 0, delay }));
}

/** Formats in which pictures are sent: PNG is lossless, the others are smaller and lossy. */
type PictureFormat = 'png' | 'jpeg' | 'webp';

export type PictureOptions = ScaleOptions & {
  /** Default png. */
  readonly format?: PictureFormat;
  /** 1 to 100, for jpeg and webp; default 85. */
  readonly quality?: number;
  /** Frames whose longer side has more pixels are made smaller to this, keeping their proportions. */
  readonly longestSide?: number;
};

/** A picture of one frame or several. */
export type EncodedPicture = {
  readonly bytes: Uint8Array;
  readonly mediaType: 'image/png' | 'image/jpeg' | 'image/webp';
  readonly width: number;
  readonly height: number;
};

/**
 * Frames as one picture each, for a vision-language model or a page.
 *
 * @param indices frames in the order wanted, such as sampleFrames gives
 * @throws PlumbError INVALID_ARGUMENT for a frame that the clip does not have, or a bad scale
 */
export async function encodeFrames(
  clip: Clip,
  indices: readonly number[],
  options: PictureOptions = {},
): Promise<EncodedPicture[]> {
  checkClip(clip);
  return Promise.all(
    indices.map((index) => encodePicture(frameOf(clip, index), clip.width, clip.height, options)),
  );
}

/**
 * Frames as one picture: rows from left to right, beginning at the top, without gaps; places left over are white.
 *
 * @param columns frames beside each other; 1 is a film strip
 * @throws PlumbError as encodeFrames does
 */
export async function encodeGrid(
  clip: Clip,
  indices: readonly number[],
  columns: number,
  options: PictureOptions = {},
): Promise<EncodedPicture> {
  checkClip(clip);
  const across = Math.min(columns, indices.length);
  const rows = Math.ceil(indices.length / across);
  const rowBytes = clip.width * 3;
  const grid = new Uint8Array(across * rows * clip.height * rowBytes).fill(255);
  indices.forEach((index, place) => {
    const frame = frameOf(clip, index);
    const top = Math.floor(place / across) * clip.height;
    for (let y = 0; y < clip.height; y += 1) {
      grid.set(
        frame.subarray(y * rowBytes, (y + 1) * rowBytes),
        ((top + y) * across + (place % across)) * rowBytes,
      );
    }
  });
  const { longestSide, ...rest } = options;
  // The limit is for a frame, wherever it stands.
  const shrink = longestSide === undefined ? 1 : longestSide / Math.max(clip.width, clip.height);
  const width = clip.width * across;
  const height = clip.height * rows;
  return encodePicture(grid, width, height, {
    ...rest,
    ...(shrink < 1 ? { longestSide: Math.round(Math.max(width, height) * shrink) } : {}),
  });
}

async function encodePicture(
  pixels: Uint8Array,
  width: number,
  height: number,
  { scale = 1, format = 'png', quality = 85, longestSide = Infinity }: PictureOptions,
): Promise<EncodedPicture> {
  const picture = enlarge(pixels, width, height, scale);
  const small = width * height * scale * scale <= mostSmallPixels;
  if (format === 'png' && small && Math.max(width, height) * scale <= longestSide) {
    const bytes = encodeSmallPng(picture, width * scale, height * scale);
    return { bytes, mediaType: 'image/png', width: width * scale, height: height * scale };
  }
  let image = sharp(picture, rgb(width * scale, height * scale));
  if (Math.max(width, height) * scale > longestSide) {
    image = image.resize({ width: longestSide, height: longestSide, fit: 'inside' });
  }
  // Level 2 takes a third of the default's time for pictures a tenth larger.
  if (format === 'png') image = image.png({ compressionLevel: 2 });
  else if (format === 'jpeg') image = image.jpeg({ quality });
  else image = image.webp({ quality });
  const { data, info } = await image.toBuffer({ resolveWithObject: true });
  return {
    bytes: new Uint8Array(data),
    mediaType: `image/${format}`,
    width: info.width,
    height: info.height,
  };
}

/**
 * True if bytes begin as a PNG of the size of a film strip of this shape. The header is all that is read.
 */
export function isFilmStrip(bytes: Uint8Array, shape: ClipShape): boolean {
  if (bytes.length < 33 || !pngSignature.every((byte, index) => bytes[index] === byte)) return false;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  // IHDR comes first (PNG, third edition, section 11.2.1): width, height, depth 8, colour type 2 (RGB).
  return (
    view.getUint32(16) === shape.width &&
    view.getUint32(20) === shape.height * shape.frames &&
    bytes[24] === 8 &&
    bytes[25] === 2
  );
}

export type ContactSheetOptions = ScaleOptions & {
  /** Pixels between frames and around them, before scaling; default 1. */
  readonly gap?: number;
  /** Clips beside each other before a new row begins; default 1. */
  readonly columns?: number;
};

/**
 * Clips on one PNG: each clip's frames from left to right, clips below each other (or in several columns), on white.
 *
 * @throws PlumbError INVALID_ARGUMENT when there is no clip, clips differ in shape, or the sheet would be too large
 */
export async function contactSheet(
  clips: readonly Clip[],
  options: ContactSheetOptions = {},
): Promise<Uint8Array> {
  const first = clips[0];
  if (first === undefined) throw invalidArgument('clips', 'is empty; give at least one clip');
  for (const clip of clips) {
    checkClip(clip);
    if (clip.frames !== first.frames || clip.width !== first.width || clip.height !== first.height) {
      throw invalidArgument('clips', 'differ in shape; put clips of one size and length on a sheet');
    }
  }
  const { gap = 1, columns = 1, scale = 4 } = options;
  const rows = Math.ceil(clips.length / columns);
  const strip = first.frames * (first.width + gap) + gap;
  const [width, height] = [columns * strip, rows * (first.height + gap) + gap];
  const sheet = new Uint8Array(width * height * 3).fill(255);
  clips.forEach((clip, at) => {
    const [row, column] = [Math.floor(at / columns), at % columns];
    for (let frame = 0; frame < clip.frames; frame += 1) {
      const left = column * strip + gap + frame * (clip.width + gap);
      const top = gap + row * (clip.height + gap);
      for (let y = 0; y < clip.height; y += 1) {
        const from = (frame * clip.height + y) * clip.width * 3;
        sheet.set(clip.data.subarray(from, from + clip.width * 3), ((top + y) * width + left) * 3);
      }
    }
  });
  return bytesOf(sharp(enlarge(sheet, width, height, scale), rgb(width * scale, height * scale)).png());
}

async function bytesOf(image: { toBuffer(): Promise<Buffer> }): Promise<Uint8Array> {
  return new Uint8Array(await image.toBuffer());
}
