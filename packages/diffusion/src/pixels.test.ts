import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { clipSize } from './config.ts';
import { clipToModel, modelToClip } from './pixels.ts';
import { smallConfig } from './testing-model.ts';

const { frames, height, width, fps } = smallConfig.video;

test('every eight-bit clip survives the way into the model and back', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: clipSize(smallConfig), maxLength: clipSize(smallConfig) }),
      (data) => {
        const values = new Float32Array(clipSize(smallConfig) + 5);
        clipToModel(smallConfig, { frames, height, width, fps, data }, values, 5);
        assert.deepEqual(modelToClip(smallConfig, values, 5).data, data);
      },
    ),
  );
});

test('values beyond the range are clipped and channels are not mixed', () => {
  const values = new Float32Array(clipSize(smallConfig)).fill(-100);
  values.fill(100, 0, clipSize(smallConfig) / 3);
  const { data } = modelToClip(smallConfig, values);
  assert.deepEqual([...data.subarray(0, 6)], [255, 0, 0, 255, 0, 0]);
});

test('a clip of another size is refused with both sizes', () => {
  assert.throws(
    () =>
      clipToModel(
        smallConfig,
        { frames: 2, height, width, fps, data: new Uint8Array(0) },
        new Float32Array(1),
      ),
    /2 frames of 8x8.*4 frames of 8x8/,
  );
});
