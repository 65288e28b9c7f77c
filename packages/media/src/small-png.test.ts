import assert from 'node:assert/strict';
import { test } from 'node:test';
import sharp from 'sharp';
import { encodeSmallPng, mostSmallPixels } from './small-png.ts';

test('a strict decoder reads the very pixels', async () => {
  const side = Math.sqrt(mostSmallPixels);
  for (const [width, height] of [
    [1, 1],
    [24, 24],
    [5, 300],
    [side, side],
  ] as const) {
    const pixels = Uint8Array.from(
      { length: width * height * 3 },
      (_, at) => (at * at * 31 + (at >> 3)) & 255,
    );
    const { data, info } = await sharp(encodeSmallPng(pixels, width, height), { failOn: 'warning' })
      .raw()
      .toBuffer({ resolveWithObject: true });
    assert.deepEqual([info.width, info.height, info.channels], [width, height, 3]);
    assert.deepEqual(new Uint8Array(data), pixels);
  }
});

test('what repeats is packed', () => {
  assert.ok(encodeSmallPng(new Uint8Array(24 * 24 * 3).fill(7), 24, 24).length < 200);
});

test('bytes that are no such picture are refused', () => {
  assert.throws(() => encodeSmallPng(new Uint8Array(11), 2, 2), /11 bytes are no RGB picture of 2x2/);
});
