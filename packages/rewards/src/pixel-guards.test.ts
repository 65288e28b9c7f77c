import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Clip } from '@plumb/media';
import fc from 'fast-check';
import { colourStability, motionFloor, objectPersistence } from './pixel-guards.ts';

/** A clip of grey 220 with a square of 4x4 whose place and colour are given for each frame; null is no square. */
function clip(squares: readonly (readonly [x: number, colour: readonly number[]] | null)[], size = 16): Clip {
  const data = new Uint8Array(squares.length * size * size * 3).fill(220);
  for (const [frame, square] of squares.entries()) {
    if (square === null) continue;
    const [left, colour] = square;
    for (let y = 6; y < 10; y += 1) {
      for (let x = left; x < left + 4; x += 1) data.set(colour, ((frame * size + y) * size + x) * 3);
    }
  }
  return { frames: squares.length, width: size, height: size, fps: 8, data };
}

const red = [220, 30, 30];
const blue = [30, 30, 220];

test('motion is 0 for a still picture and counts what changes otherwise', () => {
  assert.equal(
    motionFloor(
      clip([
        [0, red],
        [0, red],
      ]),
    ).value,
    0,
  );
  // 16 pixels leave and 16 arrive; each differs by 0, 190 and 190 levels.
  const moved = motionFloor(
    clip([
      [0, red],
      [8, red],
    ]),
  );
  assert.ok(Math.abs(moved.value - (32 * 380) / (16 * 16 * 3 * 255)) < 1e-12);
  assert.equal(moved.details?.['moving_share'], 32 / 256);
  assert.equal(motionFloor(clip([[0, red]])).value, 0, 'one frame does not move');
});

test('persistence falls when an object vanishes or shrinks', () => {
  assert.equal(
    objectPersistence(
      clip([
        [0, red],
        [5, red],
        [9, red],
      ]),
    ).value,
    1,
  );
  assert.equal(objectPersistence(clip([[0, red], null, [9, red]])).value, 0);
  assert.equal(objectPersistence(clip([null, null])).value, 0, 'nothing is there at all');
  assert.equal(objectPersistence(clip([[0, red]])).details?.['mean_area'], 16 / 256);
});

test('colour stability falls when an object turns another colour', () => {
  assert.equal(
    colourStability(
      clip([
        [0, red],
        [9, red],
      ]),
    ).value,
    1,
  );
  const turned = colourStability(
    clip([
      [0, red],
      [0, blue],
    ]),
  );
  assert.ok(Math.abs(turned.value - (1 - 16 / 256)) < 1e-12);
});

test('every guard is from 0 to 1 for any clip, and always the same', () => {
  const shape = fc.record({ frames: fc.integer({ min: 1, max: 4 }), side: fc.integer({ min: 1, max: 6 }) });
  fc.assert(
    fc.property(shape, fc.infiniteStream(fc.integer({ min: 0, max: 255 })), ({ frames, side }, levels) => {
      const data = Uint8Array.from(levels.take(frames * side * side * 3));
      const any: Clip = { frames, width: side, height: side, fps: 8, data };
      for (const measure of [motionFloor, objectPersistence, colourStability]) {
        const { value } = measure(any);
        assert.ok(value >= 0 && value <= 1, `${value}`);
        assert.deepEqual(measure(any), measure(any));
      }
    }),
  );
});
