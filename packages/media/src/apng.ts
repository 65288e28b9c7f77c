/** Animated PNG: the picture library shows its first frame only, so the frames are taken apart here. */

import { crc32 } from 'node:zlib';
import { dataLoss } from '@plumb/kit/errors';
import sharp from 'sharp';
import type { TimedFrames } from './animation.ts';
import { checkLimits } from './clip-limits.ts';
import type { ClipLimits } from './clip-limits.ts';

// Source: https://www.w3.org/TR/png-3/, sections 5 and 11.3.6.

const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
/** Chunks that say how the pixels of every frame are to be read. */
const sharedChunks: ReadonlySet<string> = new Set([
  'PLTE',
  'tRNS',
  'gAMA',
  'cHRM',
  'sRGB',
  'sBIT',
  'iCCP',
  'cICP',
]);

interface Chunk {
  readonly type: string;
  readonly data: Buffer;
}

/** One fcTL chunk and the image data that follows it. */
interface Frame {
  readonly width: number;
  readonly height: number;
  readonly left: number;
  readonly top: number;
  readonly delayMs: number;
  /** 0: leave the canvas; 1: clear the frame's part of it; 2: put back what was there. */
  readonly dispose: number;
  /** 0: replaces what is beneath; 1: is laid over it. */
  readonly blend: number;
  readonly parts: Buffer[];
}

/**
 * Reads an animated PNG; one without animation is a clip of one frame.
 *
 * @throws PlumbError as `decodeAnimation`
 */
export async function readApng(bytes: Uint8Array, limits: ClipLimits): Promise<TimedFrames> {
  const chunks = readChunks(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  const [header] = chunks;
  if (header?.type !== 'IHDR' || header.data.length !== 13) throw corrupt('it has no header');
  const [width, height] = [header.data.readUInt32BE(0), header.data.readUInt32BE(4)];
  if (width === 0 || height === 0) throw corrupt(`its picture is ${width}x${height}`);
  const frames = readFrames(chunks, width, height);
  checkLimits('the APNG', { frames: frames.length, height, width }, limits);

  const shared = chunks.filter(({ type }) => sharedChunks.has(type));
  const size = width * height * 3;
  const data = new Uint8Array(frames.length * size);
  const canvas = new Uint8Array(width * height * 4);
  for (const [index, frame] of frames.entries()) {
    const pixels = await decodeFrame(frame, header.data, shared);
    const before = frame.dispose === 2 ? canvas.slice() : undefined;
    draw(canvas, width, frame, pixels);
    flatten(canvas, data.subarray(index * size, (index + 1) * size));
    if (before !== undefined) canvas.set(before);
    if (frame.dispose === 1) clear(canvas, width, frame);
  }
  return { width, height, data, delays: frames.map(({ delayMs }) => delayMs) };
}

function corrupt(how: string, cause?: unknown): Error {
  return dataLoss(`the APNG of a clip is corrupt: ${how}`, { cause });
}

function readChunks(bytes: Buffer): Chunk[] {
  if (!bytes.subarray(0, 8).equals(signature)) throw corrupt('it does not begin as a PNG');
  const chunks: Chunk[] = [];
  for (let at = 8; at < bytes.length;) {
    if (at + 12 > bytes.length) throw corrupt('it ends within a chunk');
    const length = bytes.readUInt32BE(at);
    if (at + 12 + length > bytes.length) throw corrupt('it ends within a chunk');
    const type = bytes.toString('latin1', at + 4, at + 8);
    const data = bytes.subarray(at + 8, at + 8 + length);
    if (crc32(bytes.subarray(at + 4, at + 8 + length)) !== bytes.readUInt32BE(at + 8 + length)) {
      throw corrupt(`the checksum of a chunk at byte ${at} is wrong`);
    }
    chunks.push({ type, data });
    if (type === 'IEND') return chunks;
    at += 12 + length;
  }
  throw corrupt('its end is missing');
}

function readFrames(chunks: readonly Chunk[], width: number, height: number): Frame[] {
  const frames: Frame[] = [];
  // Image data before the first fcTL is a still for readers that know no animation, unless there is no animation at all.
  const still: Frame = { width, height, left: 0, top: 0, delayMs: 0, dispose: 0, blend: 0, parts: [] };
  let current = still;
  for (const { type, data } of chunks) {
    if (type === 'fcTL') {
      current = readControl(data, width, height);
      frames.push(current);
    } else if (type === 'IDAT') current.parts.push(data);
    else if (type === 'fdAT') {
      if (current === still) throw corrupt('frame data comes before its frame');
      current.parts.push(data.subarray(4));
    }
  }
  const found = frames.length === 0 ? [still] : frames;
  if (found.some(({ parts }) => parts.length === 0)) throw corrupt('a frame has no data');
  return found;
}

function readControl(data: Buffer, width: number, height: number): Frame {
  if (data.length !== 26) throw corrupt('a frame control chunk has the wrong size');
  const number = (at: number): number => data.readUInt32BE(at);
  const seconds = data.readUInt16BE(20) / (data.readUInt16BE(22) || 100);
  const frame: Frame = {
    width: number(4),
    height: number(8),
    left: number(12),
    top: number(16),
    delayMs: 1000 * seconds,
    dispose: data.readUInt8(24),
    blend: data.readUInt8(25),
    parts: [],
  };
  const inside =
    frame.width > 0 &&
    frame.height > 0 &&
    frame.left + frame.width <= width &&
    frame.top + frame.height <= height;
  if (!inside) throw corrupt('a frame lies outside of the picture');
  return frame;
}

/** RGBA of one frame: it becomes a PNG of its own, and the picture library reads that. */
async function decodeFrame(frame: Frame, header: Buffer, shared: readonly Chunk[]): Promise<Uint8Array> {
  const ownHeader = Buffer.from(header);
  ownHeader.writeUInt32BE(frame.width, 0);
  ownHeader.writeUInt32BE(frame.height, 4);
  const png = Buffer.concat([
    signature,
    chunkBytes('IHDR', ownHeader),
    ...shared.map(({ type, data }) => chunkBytes(type, data)),
    ...frame.parts.map((part) => chunkBytes('IDAT', part)),
    chunkBytes('IEND', Buffer.alloc(0)),
  ]);
  let pixels: Uint8Array;
  try {
    pixels = await sharp(png, { limitInputPixels: frame.width * frame.height, failOn: 'warning' })
      .toColourspace('srgb')
      .ensureAlpha()
      .raw({ depth: 'uchar' })
      .toBuffer();
  } catch (error) {
    throw corrupt('the pixels of a frame cannot be read', error);
  }
  if (pixels.length !== frame.width * frame.height * 4)
    throw corrupt('a frame holds another number of pixels');
  return pixels;
}

function chunkBytes(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(data.length, 0);
  body.copy(framed, 4);
  framed.writeUInt32BE(crc32(body), body.length + 4);
  return framed;
}

function draw(canvas: Uint8Array, width: number, frame: Frame, pixels: Uint8Array): void {
  for (let y = 0; y < frame.height; y += 1) {
    if (frame.blend === 0) {
      const row = pixels.subarray(y * frame.width * 4, (y + 1) * frame.width * 4);
      canvas.set(row, ((frame.top + y) * width + frame.left) * 4);
      continue;
    }
    for (let x = 0; x < frame.width; x += 1) {
      const from = (y * frame.width + x) * 4;
      const to = ((frame.top + y) * width + frame.left + x) * 4;
      const [above, below] = [(pixels[from + 3] ?? 0) / 255, (canvas[to + 3] ?? 0) / 255];
      if (above === 1 || below === 0) {
        canvas.set(pixels.subarray(from, from + 4), to);
        continue;
      }
      const alpha = above + below * (1 - above);
      for (let channel = 0; channel < 3; channel += 1) {
        const mixed =
          (pixels[from + channel] ?? 0) * above + (canvas[to + channel] ?? 0) * below * (1 - above);
        canvas[to + channel] = Math.round(mixed / alpha);
      }
      canvas[to + 3] = Math.round(alpha * 255);
    }
  }
}

function clear(canvas: Uint8Array, width: number, frame: Frame): void {
  for (let y = frame.top; y < frame.top + frame.height; y += 1) {
    canvas.fill(0, (y * width + frame.left) * 4, (y * width + frame.left + frame.width) * 4);
  }
}

/** RGBA onto black. */
function flatten(canvas: Uint8Array, out: Uint8Array): void {
  for (let from = 0, to = 0; to < out.length; from += 4, to += 3) {
    const alpha = canvas[from + 3] ?? 0;
    for (let channel = 0; channel < 3; channel += 1) {
      const level = canvas[from + channel] ?? 0;
      out[to + channel] = alpha === 255 ? level : Math.round((level * alpha) / 255);
    }
  }
}
