import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { checkClip, frameOf, sampleFrames, sampleFramesByMotion } from './clip.ts';

test('sampled frames are in order, without repeats, and hold the first and the last', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 300 }), (frames, count) => {
      const indices = sampleFrames({ frames }, count);
      assert.equal(indices.length, Math.min(frames, count));
      assert.deepEqual(
        indices,
        [...new Set(indices)].toSorted((a, b) => a - b),
      );
      assert.ok(indices.every((index) => index >= 0 && index < frames));
      if (count > 1) assert.deepEqual([indices[0], indices.at(-1)], [0, frames - 1]);
    }),
  );
});

test('sampled frames are evenly spread', () => {
  assert.deepEqual(sampleFrames({ frames: 8 }, 4), [0, 2, 5, 7]);
  assert.deepEqual(sampleFrames({ frames: 9 }, 1), [4]);
  assert.throws(() => sampleFrames({ frames: 8 }, 0), { code: 'INVALID_ARGUMENT' });
});

test('a clip whose bytes disagree with its shape is refused with both numbers', () => {
  const clip = { frames: 2, height: 3, width: 4, fps: 8, data: new Uint8Array(71) };
  assert.throws(() => checkClip(clip), { code: 'INVALID_ARGUMENT', message: /71 bytes.*72/ });
  for (const wrong of [{ frames: 0 }, { width: 1.5 }, { height: -1 }, { fps: 0 }, { fps: Number.NaN }]) {
    assert.throws(() => checkClip({ ...clip, data: new Uint8Array(72), ...wrong }), {
      code: 'INVALID_ARGUMENT',
    });
  }
  assert.throws(() => checkClip({ ...clip, width: 2 ** 20, height: 2 ** 20 }), { message: /over the limit/ });
});

test('a frame is a view of its own pixels', () => {
  const data = Uint8Array.from({ length: 24 }, (_, index) => index);
  const clip = { frames: 2, height: 2, width: 2, fps: 8, data };
  assert.deepEqual([...frameOf(clip, 1)], [...data.subarray(12)]);
  assert.throws(() => frameOf(clip, 2), { code: 'INVALID_ARGUMENT' });
});

test('frames by motion are close together where much changes', () => {
  const clip = { frames: 12, height: 1, width: 1, fps: 8, data: new Uint8Array(36) };
  // Nothing until frame 8, then one step a frame.
  for (let frame = 8; frame < 12; frame += 1) clip.data.fill((frame - 7) * 50, frame * 3, frame * 3 + 3);
  assert.deepEqual(sampleFramesByMotion(clip, 5), [0, 8, 9, 10, 11]);
  const still = { ...clip, data: new Uint8Array(36) };
  assert.deepEqual(sampleFramesByMotion(still, 5), sampleFrames(still, 5));
});

test('frames by motion are in order, without repeats, whatever moves', () => {
  const clips = fc.array(fc.nat(255), { minLength: 1, maxLength: 40 }).map((values) => ({
    frames: values.length,
    height: 1,
    width: 1,
    fps: 8,
    data: Uint8Array.from(values.flatMap((value) => [value, value, value])),
  }));
  fc.assert(
    fc.property(clips, fc.integer({ min: 1, max: 50 }), (clip, count) => {
      const indices = sampleFramesByMotion(clip, count);
      assert.equal(indices.length, Math.min(clip.frames, count));
      assert.ok(indices.every((index, place) => index < clip.frames && index > (indices[place - 1] ?? -1)));
    }),
  );
});
