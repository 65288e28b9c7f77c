import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { DecoderInput } from './architecture.ts';
import { decodeTiled, tileStarts } from './tiles.ts';
import type { DecodedFrames } from './tiles.ts';

/** A decoder without a neighbourhood: every pixel is the sum of its latent's channels, and knows its place in it. */
const scale = 2;
function pointwise({ shape: [channels, depth, height, width], data }: DecoderInput): Promise<DecodedFrames> {
  const result = new Float32Array(3 * depth * height * scale * width * scale);
  for (let i = 0; i < result.length; i++) {
    const column = Math.floor((i % (width * scale)) / scale);
    const row = Math.floor(Math.floor(i / (width * scale)) / scale) % height;
    const frame = Math.floor(i / (width * scale * height * scale)) % depth;
    let sum = 0;
    for (let c = 0; c < channels; c++)
      sum += data[((c * depth + frame) * height + row) * width + column] ?? NaN;
    result[i] = sum;
  }
  return Promise.resolve({ frames: depth, height: height * scale, width: width * scale, data: result });
}

test('tiles cover everything, have one size and begin in order', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 60 }),
      fc.integer({ min: 1, max: 60 }),
      fc.double({ min: 0, max: 0.9, noNaN: true }),
      (extent, tile, overlap) => {
        const starts = tileStarts(extent, tile, overlap);
        const covered = new Set(starts.flatMap((start) => Array.from({ length: tile }, (_, i) => start + i)));
        for (let i = 0; i < extent; i++) assert.ok(covered.has(i), `${i} of ${extent} is in no tile`);
        assert.ok(starts.every((start, i) => i === 0 || start > (starts[i - 1] ?? 0)));
      },
    ),
  );
});

test('tiles change nothing where the decoder looks at single latents', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 1, max: 6 }),
      async (height, width, tall, wide) => {
        const data = Float32Array.from({ length: 2 * 3 * height * width }, (_, i) => Math.sin(i * 1.7));
        const input: DecoderInput = { shape: [2, 3, height, width], data };
        const whole = await pointwise(input);
        const tiled = await decodeTiled(
          input,
          { height: tall, width: wide, overlap: 0.25 },
          scale,
          pointwise,
        );
        assert.deepEqual(
          [tiled.frames, tiled.height, tiled.width],
          [whole.frames, whole.height, whole.width],
        );
        for (const [i, value] of whole.data.entries())
          assert.ok(Math.abs(value - (tiled.data[i] ?? NaN)) < 1e-5);
      },
    ),
    { numRuns: 40 },
  );
});
