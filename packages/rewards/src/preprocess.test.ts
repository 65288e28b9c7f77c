import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { ImagePreprocessing } from './definition.ts';
import { outputSize, preprocess, preprocessingOf } from './preprocess.ts';
import { resample } from './resample.ts';

const plain: Pick<ImagePreprocessing, 'interpolation' | 'mean' | 'std'> = {
  interpolation: 'bicubic',
  mean: [0, 0, 0],
  std: [1, 1, 1],
};

function run(width: number, height: number, level: number, settings: ImagePreprocessing): Float32Array {
  const size = outputSize(settings);
  assert.ok(size !== undefined);
  const target = new Float32Array(3 * size.width * size.height);
  preprocess({ width, height, data: new Uint8Array(width * height * 3).fill(level) }, settings, target, 0);
  return target;
}

test('a frame of one colour stays that colour, whatever its size and the filter', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 80 }),
      fc.integer({ min: 1, max: 80 }),
      fc.integer({ min: 0, max: 255 }),
      fc.constantFrom('nearest', 'bilinear', 'bicubic', 'lanczos'),
      (width, height, level, interpolation) => {
        const data = new Uint8Array(width * height * 3).fill(level);
        const { data: out } = resample({ width, height, data }, 17, 29, interpolation);
        assert.equal(out.length, 17 * 29 * 3);
        assert.ok(out.every((one) => one === level));
      },
    ),
  );
});

test('longest-edge keeps the proportions, centred on black', () => {
  const settings = { ...plain, resize: { mode: 'longest-edge', size: 8 } } as const;
  const red = run(16, 8, 255, settings).subarray(0, 64);
  const rows = Array.from({ length: 8 }, (_, y) => [...red.subarray(y * 8, y * 8 + 8)]);
  const [white, black] = [Array.from({ length: 8 }, () => 1), Array.from({ length: 8 }, () => 0)];
  assert.deepEqual(rows, [black, black, white, white, white, white, black, black]);
});

test('an odd number of pixels is cut as transformers cuts it, or as torchvision', () => {
  const picture = {
    width: 7,
    height: 4,
    data: Uint8Array.from({ length: 7 * 4 * 3 }, (_, at) => Math.floor(at / 3) % 7),
  };
  const columnOf = (rounding: 'down' | 'half-even'): number => {
    const target = new Float32Array(3 * 4 * 4);
    const resize = { mode: 'shortest-edge', size: 4 } as const;
    preprocess(picture, { ...plain, resize, crop: { width: 4, height: 4, rounding } }, target, 0);
    return Math.round((target[0] ?? 0) * 255);
  };
  // Three columns are cut: one and two, or two and one.
  assert.equal(columnOf('down'), 1);
  assert.equal(columnOf('half-even'), 2);
});

test('preprocessor settings of old and new form are read, and others refused', () => {
  const config = {
    do_resize: true,
    do_normalize: true,
    resample: 3,
    image_mean: [0.5, 0.5, 0.5],
    image_std: [0.5, 0.5, 0.5],
  };
  const read = (changes: Readonly<Record<string, unknown>>): ImagePreprocessing =>
    preprocessingOf(Buffer.from(JSON.stringify({ ...config, ...changes })), 'preprocessor_config.json');
  assert.deepEqual(
    read({ size: 224, crop_size: 224 }),
    read({ size: { shortest_edge: 224 }, crop_size: { height: 224, width: 224 } }),
  );
  assert.deepEqual(read({ size: { height: 8, width: 6 }, do_center_crop: false }).resize, {
    mode: 'exact',
    width: 6,
    height: 8,
  });
  assert.throws(() => read({ size: 224, rescale_factor: 1 }), /rescale_factor/);
  assert.throws(() => read({ size: 224, do_normalize: false }), /write the settings out under image/);
});
