import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Tensor } from './index.ts';
import {
  abs,
  add,
  addAll,
  cast,
  clip,
  concat,
  conv,
  convTranspose,
  cos,
  div,
  erf,
  exp,
  expand,
  gather,
  gatherNd,
  gelu,
  gemm,
  Graph,
  gradients,
  greater,
  groupNorm,
  layerNorm,
  linear,
  log,
  logSigmoid,
  logSoftmax,
  matMul,
  maximum,
  minimum,
  mul,
  neg,
  pad,
  pow,
  reduceMax,
  reduceMean,
  reduceMin,
  reduceSum,
  relu,
  reshape,
  resizeNearest,
  rmsNorm,
  scatterAdd,
  scatterNd,
  sigmoid,
  silu,
  sin,
  slice,
  softmax,
  softplus,
  split,
  sqrt,
  square,
  stopGradient,
  sub,
  swapLastAxes,
  tanh,
  transpose,
  where,
} from './index.ts';
import { gradientRules } from './gradient-rules.ts';
import type { DifferentiableCase } from './testing/finite-differences.ts';
import { assertGradients } from './testing/finite-differences.ts';

const extent = fc.integer({ min: 1, max: 3 });
const shapeOfRank = (min: number, max: number): fc.Arbitrary<number[]> =>
  fc.array(extent, { minLength: min, maxLength: max });
const positive = (value: number): number => 1.25 + value;
/** Away from 0, where some functions have a corner. */
const awayFromZero = (value: number): number => value + Math.sign(value) * 0.1;

/** Two shapes that broadcast to each other: some extents 1, some leading axes missing. */
const broadcastPair = shapeOfRank(0, 3).chain((full) =>
  fc
    .record({
      left: fc.array(fc.boolean(), { minLength: full.length, maxLength: full.length }),
      right: fc.array(fc.boolean(), { minLength: full.length, maxLength: full.length }),
      cut: fc.integer({ min: 0, max: full.length }),
    })
    .map(({ left, right, cut }): [number[], number[]] => [
      full.map((size, axis) => (left[axis] === true ? 1 : size)),
      full.map((size, axis) => (right[axis] === true && left[axis] === false ? 1 : size)).slice(cut),
    ]),
);

function check(name: string, cases: fc.Arbitrary<DifferentiableCase>, numRuns = 8): void {
  test(`gradient of ${name}`, async () => {
    await fc.assert(
      fc.asyncProperty(cases, fc.integer(), async (given, seed) => {
        await assertGradients(given, seed);
      }),
      { numRuns, seed: 1, endOnFailure: true },
    );
  });
}

function first(inputs: readonly Tensor[]): Tensor {
  const [x] = inputs;
  assert.ok(x !== undefined);
  return x;
}

function pairOf(inputs: readonly Tensor[]): [Tensor, Tensor] {
  const [a, b] = inputs;
  assert.ok(a !== undefined && b !== undefined);
  return [a, b];
}

function unary(
  name: string,
  build: (x: Tensor) => Tensor,
  options: Pick<DifferentiableCase, 'dtype' | 'domain'> = {},
): void {
  check(
    name,
    shapeOfRank(0, 3).map((shape) => ({
      shapes: [shape],
      build: (inputs) => build(first(inputs)),
      ...options,
    })),
  );
}

function binary(
  name: string,
  build: (a: Tensor, b: Tensor) => Tensor,
  options: Pick<DifferentiableCase, 'dtype' | 'domain'> = {},
): void {
  check(
    name,
    broadcastPair.map((shapes) => ({ shapes, build: (inputs) => build(...pairOf(inputs)), ...options })),
  );
}

binary('add', add);
binary('sub', sub);
binary('mul', mul);
binary('div', div, { domain: positive });
binary('pow', pow, { domain: positive });
binary('maximum', maximum);
binary('minimum', minimum);
binary('where', (a, b) => where(greater(a, b), a, b));
binary('where, both sides used twice', (a, b) => where(greater(mul(a, b), 0), mul(a, b), sub(a, b)));
unary('square', square);
unary('pow with a constant', (x) => pow(x, 3));
unary('arithmetic with numbers', (x) => sub(2, div(mul(add(x, 1), 3), 4)));
unary('addAll', (x) => addAll([x, mul(x, 2), square(x)]));
unary('neg', neg);
unary('abs', abs, { domain: awayFromZero });
unary('exp', exp);
unary('log', log, { domain: positive });
unary('sqrt', sqrt, { domain: positive });
unary('sin', sin);
unary('cos', cos);
unary('tanh', tanh);
unary('sigmoid', sigmoid);
unary('softplus', softplus, { dtype: 'float32' });
unary('logSigmoid', logSigmoid, { dtype: 'float32' });
unary('relu', relu, { domain: awayFromZero });
unary('erf', erf, { dtype: 'float32' });
unary('gelu', gelu, { dtype: 'float32' });
unary('gelu, tanh approximation', (x) => gelu(x, { approximate: 'tanh' }), { dtype: 'float32' });
unary('silu', silu);
unary('clip', (x) => clip(x, -0.5, 0.7));
unary('cast', (x) => cast(square(cast(x, 'float64')), 'float32'), { dtype: 'float32' });
unary('stopGradient as a constant factor', (x) => mul(x, stopGradient(add(mul(x, 0), 3))));

const shapeAndAxis = shapeOfRank(1, 4).chain((shape) =>
  fc.integer({ min: -shape.length, max: shape.length - 1 }).map((axis) => ({ shape, axis })),
);
const shapeAndAxes = shapeOfRank(1, 4).chain((shape) =>
  fc
    .record({ axes: fc.uniqueArray(fc.integer({ min: 0, max: shape.length - 1 })), keepDims: fc.boolean() })
    .map((options) => ({ shape, options })),
);
for (const [name, operator] of Object.entries({ reduceSum, reduceMean, reduceMax, reduceMin })) {
  check(
    name,
    shapeAndAxes.map(({ shape, options }) => ({
      shapes: [shape],
      build: (inputs) => square(operator(first(inputs), options)),
    })),
  );
}
for (const [name, operator] of Object.entries({ softmax, logSoftmax })) {
  check(
    name,
    shapeAndAxis.map(({ shape, axis }) => ({
      shapes: [shape],
      build: (inputs) => operator(first(inputs), axis),
    })),
  );
}

check(
  'attention, whose softmax has a shorter gradient',
  fc.record({ batch: shapeOfRank(1, 2), swap: fc.boolean() }).map(({ batch, swap }) => ({
    shapes: [[...batch, 3, 2], [...batch, 4, 2], swap ? [...batch, 3, 4] : [...batch, 4, 3], [3, 4]],
    build: ([q, k, v, bias]) => {
      assert.ok(q !== undefined && k !== undefined && v !== undefined && bias !== undefined);
      const weights = softmax(add(matMul(q, swapLastAxes(k)), bias));
      return square(matMul(weights, swap ? swapLastAxes(v) : v));
    },
  })),
);
check(
  'reshape and transpose',
  shapeOfRank(1, 4).chain((shape) =>
    fc.shuffledSubarray([...shape.keys()], { minLength: shape.length }).map((order) => ({
      shapes: [shape],
      build: (inputs) => square(reshape(mul(transpose(first(inputs), order), 2), [-1])),
    })),
  ),
);
check(
  'expand',
  shapeOfRank(0, 2).map((shape) => ({
    shapes: [[1, ...shape]],
    build: (inputs) => square(expand(first(inputs), [2, 3, ...shape])),
  })),
);
check(
  'slice',
  fc
    .record({
      rows: fc.integer({ min: 1, max: 9 }),
      columns: extent,
      step: fc.integer({ min: 1, max: 4 }),
      cut: fc.nat(),
    })
    .map(({ rows, columns, step, cut }) => ({
      shapes: [[rows, columns]],
      build: (inputs) => square(slice(first(inputs), 0, cut % rows, rows, step)),
    })),
  20,
);
check(
  'concat and split',
  fc.record({ a: extent, b: extent, axis: fc.integer({ min: 0, max: 2 }) }).map(({ a, b, axis }) => ({
    shapes: [[2, 3, 2].with(axis, a), [2, 3, 2].with(axis, b)],
    build: (inputs) => {
      const [left, , right] = split(concat([...inputs, ...inputs], axis), axis, [a, b, a + b]);
      assert.ok(left !== undefined && right !== undefined);
      return concat([square(left), right], axis);
    },
  })),
);
check(
  'pad',
  fc.record({ shape: shapeOfRank(2, 2), before: extent, after: extent }).map(({ shape, before, after }) => ({
    shapes: [shape],
    build: (inputs) => square(pad(first(inputs), [before, 0], [0, after])),
  })),
);
check(
  'gather',
  fc
    .record({
      shape: shapeOfRank(1, 3),
      indices: fc.array(fc.integer({ min: -1, max: 0 }), { minLength: 1, maxLength: 4 }),
      axis: fc.nat(),
    })
    .map(({ shape, indices, axis }) => ({
      shapes: [shape],
      build: (inputs, graph) =>
        square(
          gather(first(inputs), graph.constant(indices, [indices.length, 1], 'int64'), axis % shape.length),
        ),
    })),
);
check(
  'scatterAdd',
  fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 3, maxLength: 6 }).map((indices) => ({
    shapes: [[3], [indices.length]],
    build: (inputs, graph) => {
      const [base, updates] = pairOf(inputs);
      return square(scatterAdd(base, graph.constant(indices, [indices.length], 'int64'), updates));
    },
  })),
);

check(
  'gatherNd',
  fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 1, maxLength: 5 }).map((rows) => ({
    shapes: [[3, 2]],
    build: (inputs, graph) =>
      square(gatherNd(first(inputs), graph.constant(rows, [rows.length, 1], 'int64'))),
  })),
);
check(
  'scatterNd',
  fc
    .record({
      rows: fc.uniqueArray(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 4 }),
      add: fc.boolean(),
    })
    .map(({ rows, add: adds }) => ({
      shapes: [
        [4, 2],
        [rows.length, 2],
      ],
      build: (inputs, graph) => {
        const [base, updates] = pairOf(inputs);
        const indices = graph.constant(rows, [rows.length, 1], 'int64');
        return square(scatterNd(base, indices, updates, { add: adds }));
      },
    })),
);

const product = fc.record({ m: extent, k: extent, n: extent, batch: broadcastPair });
check(
  'matMul, batched and broadcasting',
  product.map(({ m, k, n, batch: [a, b] }) => ({
    shapes: [
      [...a, m, k],
      [...b, k, n],
    ],
    build: (inputs) => matMul(...pairOf(inputs)),
  })),
  16,
);
check(
  'matMul of transposed operands',
  fc
    .record({
      m: extent,
      k: extent,
      n: extent,
      left: fc.boolean(),
      right: fc.boolean(),
      batch: shapeOfRank(0, 2),
    })
    .map(({ m, k, n, left, right, batch }) => ({
      shapes: [
        [...batch, ...(left ? [k, m] : [m, k])],
        [...batch, ...(right ? [n, k] : [k, n])],
      ],
      build: (inputs) => {
        const [a, b] = pairOf(inputs);
        return square(matMul(left ? swapLastAxes(a) : a, right ? swapLastAxes(b) : b));
      },
    })),
  20,
);
check(
  'gemm',
  fc
    .record({ transposeA: fc.boolean(), transposeB: fc.boolean(), row: fc.boolean() })
    .map(({ row, ...options }) => ({
      shapes: [
        options.transposeA ? [3, 2] : [2, 3],
        options.transposeB ? [4, 3] : [3, 4],
        row ? [4] : [2, 1],
      ],
      build: ([a, b, c]) => {
        assert.ok(a !== undefined && b !== undefined);
        return square(gemm(a, b, c, options));
      },
    })),
  8,
);
check(
  'linear',
  shapeOfRank(0, 3).map((lead) => ({
    shapes: [[...lead, 3], [3, 2], [2]],
    build: ([x, weight, bias]) => {
      assert.ok(x !== undefined && weight !== undefined);
      return linear(x, weight, bias);
    },
  })),
);
for (const [affine, dtype] of [
  [false, 'float32'],
  [true, 'float32'],
  [true, 'float64'],
] as const) {
  check(
    `layerNorm ${affine ? 'with' : 'without'} scale and bias, ${dtype}`,
    shapeOfRank(0, 2).map((lead) => ({
      dtype,
      shapes: affine ? [[...lead, 4], [4], [4]] : [[...lead, 4]],
      build: ([x, scale, bias]) => {
        assert.ok(x !== undefined);
        return layerNorm(x, scale, bias, { epsilon: 1e-3 });
      },
    })),
  );
}
check(
  'rmsNorm',
  shapeOfRank(0, 2).map((lead) => ({
    shapes: [[...lead, 4], [4]],
    build: ([x, scale]) => {
      assert.ok(x !== undefined);
      return rmsNorm(x, scale);
    },
  })),
);
check(
  'groupNorm',
  shapeOfRank(1, 2).map((positions) => ({
    dtype: 'float32',
    shapes: [[2, 4, ...positions], [4], [4]],
    build: ([x, scale, bias]) => {
      assert.ok(x !== undefined);
      return groupNorm(x, 2, scale, bias, { epsilon: 1e-3 });
    },
  })),
);

const convolution = fc.record({
  axes: fc.integer({ min: 1, max: 3 }),
  strides: fc.integer({ min: 1, max: 3 }),
  padding: fc.integer({ min: 0, max: 1 }),
  dilations: fc.integer({ min: 1, max: 2 }),
  groups: fc.integer({ min: 1, max: 2 }),
  size: fc.integer({ min: 3, max: 5 }),
  kernel: fc.integer({ min: 1, max: 2 }),
});
check(
  'conv in one to three dimensions',
  convolution.map(({ axes, size, kernel, ...options }) => ({
    shapes: [
      [1, 2, ...Array.from({ length: axes }, (_, axis) => Math.max(3, size - axis))],
      [2, 2 / options.groups, ...Array.from({ length: axes }, () => kernel)],
      [2],
    ],
    dtype: 'float32',
    build: ([x, weight, bias]) => {
      assert.ok(x !== undefined && weight !== undefined);
      return conv(x, weight, bias, options);
    },
  })),
  30,
);
check(
  'convTranspose in one to three dimensions',
  convolution.map(({ axes, kernel, padding, ...options }) => ({
    shapes: [
      [1, 2, ...Array.from({ length: axes }, () => 2)],
      [2, 2 / options.groups, ...Array.from({ length: axes }, () => kernel + padding)],
      [2],
    ],
    dtype: 'float32',
    build: ([x, weight, bias]) => {
      assert.ok(x !== undefined && weight !== undefined);
      return convTranspose(x, weight, bias, { ...options, padding, outputPadding: options.strides - 1 });
    },
  })),
  30,
);
check(
  'resizeNearest',
  fc.record({ positions: shapeOfRank(1, 3), factor: extent }).map(({ positions, factor }) => ({
    shapes: [[1, 2, ...positions]],
    build: (inputs) => square(resizeNearest(first(inputs), factor)),
  })),
);

test('a second derivative is the gradient of a gradient', async () => {
  await assertGradients(
    {
      shapes: [[3]],
      build: (inputs) => {
        const [inner] = gradients(reduceSum(mul(tanh(first(inputs)), exp(first(inputs)))), inputs);
        assert.ok(inner !== undefined);
        return inner;
      },
    },
    1,
  );
});

test('a tensor that the loss does not depend on has a gradient of zeros', () => {
  const g = new Graph();
  const x = g.parameter('x', [2]);
  const y = g.parameter('y', [3]);
  const [, dy] = gradients(reduceSum(x), [x, y]);
  assert.deepEqual(dy?.shape, [3]);
  assert.ok(dy?.source.kind === 'constant' && dy.source.data.every((value) => value === 0));
});

test('only the path to the wanted tensors is differentiated', () => {
  const g = new Graph();
  const frozen = g.input('frozen', 'float32', [4, 4]);
  const x = g.parameter('x', [2, 4]);
  const before = matMul(tanh(matMul(g.input('data', 'float32', [2, 4]), frozen)), frozen);
  const count = g.nodes.length;
  gradients(reduceSum(mul(before, x)), [x]);
  const added = g.nodes.slice(count).map((node) => node.operator);
  assert.ok(!added.includes('Gemm') && !added.includes('Tanh'), added.join(' '));
});

test('an operator without a gradient is named with its node', () => {
  const g = new Graph();
  const x = g.parameter('x', [2]);
  const [odd] = g.scope('block0', () => g.apply('Round', [x], [{ dtype: 'float32', shape: [2] }]));
  assert.ok(odd !== undefined);
  assert.throws(() => gradients(reduceSum(odd), [x]), {
    code: 'UNIMPLEMENTED',
    message: /operator Round \(node block0\/Round_\d+\) has no gradient/,
  });
});

test('integers and losses that are not scalars cannot be differentiated', () => {
  const g = new Graph();
  const x = g.parameter('x', [2]);
  const i = g.input('i', 'int64', [2]);
  assert.throws(() => gradients(x, [x]), {
    code: 'INVALID_ARGUMENT',
    message: /gradients\.loss: float32 \[2\]/,
  });
  assert.throws(() => gradients(reduceSum(x), [i]), { message: /gradients\.wrt\[0\]: is int64/ });
});

test('every gradient rule is of an operator that some test differentiates', () => {
  // The rules by name, so that a new one is not forgotten here.
  assert.deepEqual(
    [...gradientRules.keys()].toSorted(),
    (
      'Abs Add BatchedProduct Cast Clip Concat Conv ConvTranspose Cos Div Erf Exp Expand Gather GatherElements GatherND Gelu Gemm ' +
      'Identity LayerNormalization Log LogSoftmax Max Min Mul Neg Pad Pow ReduceMax ReduceMean ReduceMin ReduceSum Relu ' +
      'Reshape ScatterElements ScatterND Sigmoid Silu Sin Slice Softmax Softplus Split Sqrt Sub Sum Tanh Transpose Where'
    ).split(' '),
  );
});
