/** PNG for tiny pictures. */

import { crc32, deflateSync } from 'node:zlib';

/**
 * Most pixels of a picture that encodeSmallPng is meant for. It works in the calling thread: a fraction of a millisecond up
 * to here, where handing a picture to sharp takes 0.5 to 2 ms of CPU whatever its size. Larger ones belong on sharp's threads.
 */
export const mostSmallPixels = 128 * 128;

const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
// Depth 8, colour type 2 (RGB), and the only methods of compression, filter and interlace that every reader has.
const rgb8 = [8, 2, 0, 0, 0] as const;
// Memory is set up for each picture, which for a few kilobytes takes longer than the work: a window of 4 KiB and a small table.
const deflating = { level: 1, windowBits: 12, memLevel: 5 } as const;

/**
 * A lossless PNG (third edition, W3C 2025) of [height, width, 3] bytes, rows not filtered.
 *
 * @throws RangeError if there are not width * height * 3 bytes
 */
export function encodeSmallPng(pixels: Uint8Array, width: number, height: number): Uint8Array {
  const row = width * 3;
  if (pixels.length !== row * height) {
    throw new RangeError(`${pixels.length} bytes are no RGB picture of ${width}x${height}`);
  }
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set(rgb8, 8);
  // Each row begins with its filter: 0, none.
  const rows = Buffer.alloc((row + 1) * height);
  for (let y = 0; y < height; y += 1) rows.set(pixels.subarray(y * row, (y + 1) * row), y * (row + 1) + 1);
  const parts = [
    signature,
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(rows, deflating)),
    chunk('IEND', new Uint8Array()),
  ];
  return new Uint8Array(Buffer.concat(parts));
}

/** Length, type, data and checksum (section 5.3). */
function chunk(type: string, data: Uint8Array): Buffer {
  const out = Buffer.allocUnsafe(12 + data.length);
  out.writeUInt32BE(data.length, 0);
  out.write(type, 4, 'latin1');
  out.set(data, 8);
  out.writeUInt32BE(crc32(out.subarray(4, 8 + data.length)), 8 + data.length);
  return out;
}
