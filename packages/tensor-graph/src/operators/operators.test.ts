import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  add,
  cast,
  clip,
  concat,
  conv,
  convTranspose,
  expand,
  gather,
  gemm,
  Graph,
  groupNorm,
  layerNorm,
  linear,
  matMul,
  mul,
  reduceSum,
  reshape,
  slice,
  softmax,
  split,
  tanh,
  transpose,
  where,
} from '../index.ts';

const g = new Graph();
const float = (shape: number[]) => g.input(`x${g.inputs.length}`, 'float32', shape);

test('shape errors name operator, argument and shapes when the graph is built', () => {
  const cases: [() => unknown, RegExp][] = [
    [
      () => add(float([2, 3]), float([2, 4])),
      /add\.b: shapes \[2, 3\] and \[2, 4\] do not broadcast: axis -1 is 3 and 4/,
    ],
    [() => add(float([2]), g.input('i', 'int64', [2])), /add\.b: is int64 and a is float32/],
    [() => add(1, 2), /add\.a: and b are both numbers/],
    [
      () => matMul(float([2, 3]), float([4, 5])),
      /matMul\.b: \[4, 5\] has 4 rows, but a \[2, 3\] has 3 columns/,
    ],
    [() => matMul(float([3]), float([3, 5])), /matMul\.a: \[3\] and b \[3, 5\] must have rank 2 or more/],
    [() => matMul(float([2, 4, 3]), float([3, 3, 5])), /matMul\.b: shapes \[2\] and \[3\] do not broadcast/],
    [() => gemm(float([2, 3]), float([2, 3])), /gemm\.b: \[2, 3\] has 2 rows, but a \[2, 3\] has 3 columns/],
    [
      () => gemm(float([2, 3]), float([3, 4]), float([5])),
      /gemm\.c: shapes \[5\] and \[2, 4\]|gemm\.b: shapes \[5\]/,
    ],
    [
      () => linear(float([2, 3]), float([4, 3])),
      /linear\.weight: \[4, 3\] must be \[inputs, outputs\] with inputs 3/,
    ],
    [() => linear(float([2, 3]), float([3, 4]), float([3])), /linear\.bias: \[3\] must be \[4\]/],
    [
      () => reshape(float([2, 3]), [4, -1]),
      /reshape\.shape: \[4, -1\] does not hold the 6 elements of \[2, 3\]/,
    ],
    [
      () => transpose(float([2, 3]), [0, 0]),
      /transpose\.permutation: \[0, 0\] is not a permutation of the 2 axes/,
    ],
    [() => expand(float([2]), [3]), /expand\.b: shapes \[2\] and \[3\]/],
    [() => slice(float([4]), 0, 2, 5), /slice\.start: \[2, 5\) is not within axis 0 of \[4\], extent 4/],
    [() => slice(float([4]), 1, 0, 1), /slice\.axis: 1 is outside \[-1, 0\] for a tensor of rank 1/],
    [
      () => concat([float([2, 3]), float([3, 3])], 1),
      /concat\.tensors: float32 \[3, 3\] does not join float32 \[2, 3\]/,
    ],
    [() => split(float([5]), 0, [2, 2]), /split\.sizes: \[2, 2\] must be non-negative and add up to 5/],
    [() => gather(float([5]), float([2])), /gather\.indices: are float32; use int32 or int64/],
    [() => where(float([2]), 1, 0), /where\.condition: is float32; compare first to get a bool/],
    [() => clip(float([2]), 1, 0), /clip\.low: 1 must be at most high, 0/],
    [() => reduceSum(float([2, 3]), { axes: [2] }), /reduceSum\.axes: 2 is outside \[-2, 1\]/],
    [() => reduceSum(float([2, 3]), { axes: [0, -2] }), /reduceSum\.axes: \[0, -2\] names an axis twice/],
    [() => softmax(g.input('j', 'int32', [2])), /softmax\.x: is int32; softmax takes a float dtype/],
    [() => tanh(g.input('k', 'bool', [2])), /tanh\.x: is bool; tanh takes a float dtype/],
    [() => layerNorm(float([2, 3]), float([2]), undefined), /layerNorm\.scale: \[2\] must be \[3\]/],
    [() => groupNorm(float([2, 3, 4]), 2), /groupNorm\.groups: 2 must divide the 3 channels of \[2, 3, 4\]/],
    [
      () => conv(float([1, 3, 8]), float([4, 2, 3])),
      /conv\.weight: \[4, 2, 3\] must be \[outputs, 3 \/ 1, \.\.\.kernel\]/,
    ],
    [
      () => conv(float([1, 3, 2]), float([4, 3, 3])),
      /conv\.weight: kernel \[3\] leaves nothing of x \[1, 3, 2\]/,
    ],
    [
      () => conv(float([1, 3]), float([4, 3])),
      /conv\.x: \[1, 3\] and weight \[4, 3\] must both have one to three spatial axes/,
    ],
    [
      () => convTranspose(float([1, 2, 3]), float([2, 2, 3]), undefined, { outputPadding: 1 }),
      /convTranspose\.outputPadding: 1 must be below the stride, 1/,
    ],
    [() => g.constant(new Float32Array(3), [2]), /constant\.data: has 3 elements, but shape \[2\] needs 2/],
    [() => g.input('negative', 'float32', [-1]), /input\.shape: \[-1\] must hold non-negative integers/],
    [() => g.input('i', 'float32', []), /input\.name: "i" is taken/],
    [() => g.parameter('p', [2], 'int64'), /parameter\.dtype: int64 cannot be trained/],
    [() => add(float([2]), new Graph().input('x', 'float32', [2])), /Add\.inputs: belong to two graphs/],
  ];
  for (const [build, message] of cases) {
    assert.throws(build, (error: Error & { code?: string; reason?: string }) => {
      assert.equal(error.code, 'INVALID_ARGUMENT');
      assert.equal(error.reason, 'SHAPE_MISMATCH');
      assert.match(error.message, message);
      return true;
    });
  }
});

test('results have inferred shapes', () => {
  assert.deepEqual(matMul(float([2, 1, 3, 4]), float([5, 4, 6])).shape, [2, 5, 3, 6]);
  assert.deepEqual(matMul(float([2, 5, 3, 4]), float([4, 6])).shape, [2, 5, 3, 6]);
  assert.deepEqual(add(float([2, 1]), float([3])).shape, [2, 3]);
  assert.deepEqual(reduceSum(float([2, 3, 4]), { axes: [1] }).shape, [2, 4]);
  assert.deepEqual(reduceSum(float([2, 3, 4]), { axes: [-1], keepDims: true }).shape, [2, 3, 1]);
  assert.deepEqual(gather(float([5, 6]), g.input('rows', 'int64', [2, 3])).shape, [2, 3, 6]);
  assert.deepEqual(
    conv(float([1, 3, 8, 8]), float([4, 3, 3, 3]), undefined, { strides: 2, padding: 1 }).shape,
    [1, 4, 4, 4],
  );
  assert.deepEqual(
    convTranspose(float([1, 4, 4]), float([4, 3, 3]), undefined, { strides: 2, padding: 1, outputPadding: 1 })
      .shape,
    [1, 3, 8],
  );
});

test('operations that change nothing add no node', () => {
  const x = float([2, 3]);
  assert.equal(add(x, 0), x);
  assert.equal(mul(x, 1), x);
  assert.equal(reshape(x, [2, -1]), x);
  assert.equal(transpose(transpose(x)), x);
  assert.equal(cast(x, 'float32'), x);
  assert.equal(expand(x, [2, 3]), x);
});

test('equal scalar constants are one tensor, and -0 is not 0', () => {
  assert.equal(g.scalar(0.5), g.scalar(0.5));
  assert.notEqual(g.scalar(0), g.scalar(-0));
  assert.notEqual(g.scalar(1), g.scalar(1, 'float64'));
});

test('numbers become float16 rounded to nearest even', () => {
  const bits = (value: number): number => {
    const { source } = g.scalar(value, 'float16');
    return source.kind === 'constant' ? Number(source.data[0]) : Number.NaN;
  };
  // Values and their bits from the tables of IEEE 754-2019 for binary16.
  const table: [number, number][] = [
    [0, 0x0000],
    [-0, 0x8000],
    [1, 0x3c00],
    [-2, 0xc000],
    [65_504, 0x7bff],
    [65_520, 0x7c00],
    [Infinity, 0x7c00],
    [2 ** -14, 0x0400],
    [2 ** -24, 0x0001],
    [2 ** -25, 0x0000],
    [1 / 3, 0x3555],
    [1 + 2 ** -11, 0x3c00],
    [1 + 3 * 2 ** -11, 0x3c02],
  ];
  for (const [value, expected] of table) assert.equal(bits(value), expected, String(value));
});
