import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import sharp from 'sharp';
import type { Clip } from './clip.ts';
import {
  contactSheet,
  decodeClip,
  encodeClip,
  encodeFrames,
  encodeGrid,
  encodePreview,
  enlarge,
  isFilmStrip,
} from './encode.ts';

const clips: fc.Arbitrary<Clip> = fc
  .record({
    frames: fc.integer({ min: 1, max: 6 }),
    height: fc.integer({ min: 1, max: 12 }),
    width: fc.integer({ min: 1, max: 12 }),
    fps: fc.constantFrom(1, 8, 23.976),
    // Grey or constant pictures are where an encoder is tempted to choose another pixel format.
    kind: fc.constantFrom('noise', 'grey', 'constant'),
  })
  .chain(({ kind, ...shape }) => {
    const bytes = shape.frames * shape.height * shape.width * 3;
    return fc.uint8Array({ minLength: bytes, maxLength: bytes }).map((data) => ({
      ...shape,
      data: data.map((value, index) =>
        kind === 'noise' ? value : kind === 'grey' ? (data[index - (index % 3)] ?? 0) : 7,
      ),
    }));
  });

function still(frames: number, width = 6, height = 4): Clip {
  const data = new Uint8Array(frames * height * width * 3).fill(90);
  return { frames, height, width, fps: 8, data };
}

test('a film strip gives back the very same bytes', async () => {
  await fc.assert(
    fc.asyncProperty(clips, async (clip) => {
      const { data, ...shape } = clip;
      const decoded = await decodeClip(await encodeClip(clip), shape);
      assert.deepEqual(decoded, { ...shape, data: new Uint8Array(data) });
    }),
    { numRuns: 60 },
  );
});

test('corrupt bytes are data loss and never a clip', async () => {
  const clip = still(8, 24, 24);
  const { data, ...shape } = clip;
  for (let index = 0; index < data.length; index += 1) data[index] = (index * 7919) % 251;
  const bytes = await encodeClip(clip);
  await assert.rejects(decodeClip(new Uint8Array(), shape), { code: 'DATA_LOSS' });
  await assert.rejects(decodeClip(new TextEncoder().encode('<svg/>'), shape), { code: 'DATA_LOSS' });
  await assert.rejects(decodeClip(bytes.subarray(0, bytes.length / 2), shape), { code: 'DATA_LOSS' });
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 8, max: bytes.length - 13 }),
      fc.integer({ min: 1, max: 255 }),
      async (at, flip) => {
        const broken = bytes.slice();
        broken[at] = (broken[at] ?? 0) ^ flip;
        let decoded: Clip;
        try {
          decoded = await decodeClip(broken, shape);
        } catch (error) {
          assert.ok(
            ['DATA_LOSS', 'INVALID_ARGUMENT'].includes((error as { code: string }).code),
            String(error),
          );
          return;
        }
        // A flip in a chunk that does not describe pixels may be harmless; pixels must not change unnoticed.
        assert.deepEqual(decoded.data, data);
      },
    ),
    { numRuns: 80 },
  );
});

test('a picture of another size is named with both sizes', async () => {
  const bytes = await encodeClip(still(8));
  await assert.rejects(decodeClip(bytes, { frames: 4, width: 6, height: 4, fps: 8 }), {
    code: 'INVALID_ARGUMENT',
    reason: 'CLIP_MISMATCH',
    message: /6x32.*6x16/,
  });
});

test('a decompression bomb is refused by its header', async () => {
  const bomb = await sharp({ create: { width: 6000, height: 6000, channels: 3, background: 'white' } })
    .png({ compressionLevel: 6 })
    .toBuffer();
  assert.ok(bomb.length < 2 ** 20);
  await assert.rejects(decodeClip(new Uint8Array(bomb), { frames: 8, width: 24, height: 24, fps: 8 }), {
    reason: 'CLIP_MISMATCH',
  });
  await assert.rejects(
    decodeClip(new Uint8Array(bomb), { frames: 1, width: 15_000, height: 300_000, fps: 8 }),
    {
      code: 'INVALID_ARGUMENT',
      message: /over the limit/,
    },
  );
});

test('a PNG of another pixel format is refused', async () => {
  const shape = { frames: 1, width: 2, height: 2, fps: 8 };
  const withAlpha = await sharp({ create: { width: 2, height: 2, channels: 4, background: '#12345678' } })
    .png()
    .toBuffer();
  await assert.rejects(decodeClip(new Uint8Array(withAlpha), shape), {
    code: 'DATA_LOSS',
    message: /4 channels/,
  });
});

test('a preview moves, and merges frames that are alike: why it is for people only', async () => {
  const clip = still(8);
  const moving = { ...clip, data: clip.data.map((_, index) => (Math.floor(index / 72) * 30) % 256) };
  const shown = await sharp(await encodePreview(moving, { scale: 3 }), { animated: true }).metadata();
  assert.deepEqual([shown.format, shown.pages, shown.width, shown.pageHeight], ['webp', 8, 18, 12]);
  const merged = await sharp(await encodePreview(clip), { animated: true }).metadata();
  assert.ok((merged.pages ?? 1) < 8);
});

test('frames for a model are single pictures, enlarged in sharp squares', async () => {
  const clip = still(3, 2, 1);
  clip.data.set([10, 20, 30, 200, 210, 220], 6);
  const pictures = await encodeFrames(clip, [1, 0], { scale: 4 });
  assert.equal(pictures.length, 2);
  const { data, info } = await sharp(pictures[0]?.bytes).raw().toBuffer({ resolveWithObject: true });
  assert.deepEqual([info.width, info.height], [8, 4]);
  assert.deepEqual([...data.subarray(9, 15)], [10, 20, 30, 200, 210, 220]);
  await assert.rejects(encodeFrames(clip, [3]), { code: 'INVALID_ARGUMENT' });
  await assert.rejects(encodeFrames(clip, [0], { scale: 0 }), { code: 'INVALID_ARGUMENT' });
});

test('enlarging keeps every pixel', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 1, max: 4 }),
      (width, height, scale) => {
        const picture = Uint8Array.from({ length: width * height * 3 }, (_, index) => index);
        const large = enlarge(picture, width, height, scale);
        for (let y = 0; y < height * scale; y += 1) {
          for (let x = 0; x < width * scale; x += 1) {
            const from = (Math.floor(y / scale) * width + Math.floor(x / scale)) * 3;
            const at = (y * width * scale + x) * 3;
            assert.deepEqual([...large.subarray(at, at + 3)], [...picture.subarray(from, from + 3)]);
          }
        }
      },
    ),
  );
});

test('a contact sheet shows every frame of every clip', async () => {
  const sheet = await sharp(
    await contactSheet([still(8), still(8), still(8)], { scale: 2, columns: 2 }),
  ).metadata();
  assert.deepEqual([sheet.width, sheet.height], [2 * 2 * (8 * 7 + 1), 2 * (2 * 5 + 1)]);
  await assert.rejects(contactSheet([]), { code: 'INVALID_ARGUMENT' });
  await assert.rejects(contactSheet([still(8), still(4)]), { code: 'INVALID_ARGUMENT' });
});

test('a grid holds the frames in reading order, and a film strip is a grid of one column', async () => {
  const clip = still(3, 2, 1);
  clip.data.set([10, 20, 30, 200, 210, 220], 6);
  const grid = await encodeGrid(clip, [1, 0, 2], 2);
  assert.deepEqual([grid.width, grid.height, grid.mediaType], [4, 2, 'image/png']);
  const { data } = await sharp(grid.bytes).raw().toBuffer({ resolveWithObject: true });
  assert.deepEqual([...data.subarray(0, 6)], [10, 20, 30, 200, 210, 220]);
  assert.deepEqual([...data.subarray(18, 24)], Array(6).fill(255), 'what is left over is white');
  const strip = await encodeGrid(clip, [0, 1, 2], 1);
  assert.deepEqual((await decodeClip(strip.bytes, clip)).data, clip.data);
  assert.ok(isFilmStrip(strip.bytes, clip));
  assert.ok(isFilmStrip(await encodeClip(clip), clip));
  assert.ok(!isFilmStrip(strip.bytes, { ...clip, frames: 2 }) && !isFilmStrip(new Uint8Array(5), clip));
});

test('other formats are smaller, and large frames are made small', async () => {
  const clip = still(2, 64, 32);
  for (const format of ['jpeg', 'webp'] as const) {
    const [picture] = await encodeFrames(clip, [0], { format, longestSide: 16 });
    assert.ok(picture);
    assert.equal((await sharp(picture.bytes).metadata()).format, format);
    assert.equal(Math.max(picture.width, picture.height), 16);
    assert.equal(Math.min(picture.width, picture.height), 8);
  }
});
