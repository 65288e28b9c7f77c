import assert from 'node:assert/strict';
import { mkdir, mkdtemp, copyFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { externalTensor, onnxModel } from '../testing/onnx-models.ts';
import { changeWeights } from './change-weights.ts';
import { readOnnxFile } from './model-file.ts';

const folder = await mkdtemp(join(tmpdir(), 'plumb-weights-'));
after(() => rm(folder, { recursive: true, force: true }));

test('weights change in the dtype and the place that they have; the others stay where they are', async () => {
  await writeFile(join(folder, 'w.data'), new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer));
  const path = join(folder, 'm.onnx');
  const half = new Uint16Array(Float16Array.of(0.5, 1).buffer);
  await writeFile(
    path,
    onnxModel({
      inputs: { x: { dtype: 'float32', shape: [1, 2] } },
      tensors: [externalTensor('w', [2, 2], { location: 'w.data', offset: '0', length: '16' })],
      initialisers: {
        half: { dtype: 'float16', shape: [2], data: half },
        same: { dtype: 'float32', shape: [1], data: Float32Array.of(7) },
      },
      nodes: [{ opType: 'MatMul', name: 'm', input: ['x', 'w'], output: ['y'] }],
      outputs: ['y'],
    }),
  );
  const target = join(folder, 'changed', 'm.onnx');
  await mkdir(join(folder, 'changed'));
  await copyFile(join(folder, 'w.data'), join(folder, 'changed', 'w.data'));
  const twice = (values: Float32Array): Float32Array => values.map((value) => 2 * value);
  await changeWeights(
    path,
    new Map([
      ['w', twice],
      ['half', twice],
    ]),
    target,
  );
  // Once more, so that what was written is read.
  const again = join(folder, 'changed', 'again.onnx');
  const seen = new Map<string, number[]>();
  const look =
    (name: string) =>
    (values: Float32Array): Float32Array => {
      seen.set(name, [...values]);
      return values;
    };
  await changeWeights(target, new Map(['w', 'half', 'same'].map((name) => [name, look(name)])), again);
  assert.deepEqual(Object.fromEntries(seen), { w: [2, 4, 6, 8], half: [1, 2], same: [7] });
  assert.equal((await readOnnxFile(again)).weights.get('half')?.dtype, 'float16');
  await assert.rejects(changeWeights(path, new Map([['v', twice]]), join(folder, 'v.onnx')), {
    code: 'INVALID_ARGUMENT',
    message: /changes\.v: is no weight/,
  });
});
