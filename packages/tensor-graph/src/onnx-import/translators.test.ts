import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { openSession } from '../engine/session.ts';
import type { TypedTensor } from '../engine/typed-tensor.ts';
import { Graph, sizeOf, toOnnx } from '../index.ts';
import { randomNumbers } from '../testing/finite-differences.ts';
import { attributes, onnxModel } from '../testing/onnx-models.ts';
import { importOnnx } from './import.ts';
import { translators } from './translators.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'plumb-translators-'));
});
after(() => rm(folder, { recursive: true, force: true }));

const random = randomNumbers(3);
const floats = (...shape: number[]): TypedTensor => ({
  dtype: 'float32',
  shape,
  data: Float32Array.from({ length: sizeOf(shape) }, random),
});
const integers = (values: readonly number[], shape: readonly number[] = [values.length]): TypedTensor => ({
  dtype: 'int64',
  shape,
  data: BigInt64Array.from(values, BigInt),
});
const bools = (values: readonly number[], shape: readonly number[]): TypedTensor => ({
  dtype: 'bool',
  shape,
  data: Uint8Array.from(values),
});
const positive = (tensor: TypedTensor): TypedTensor => ({
  ...tensor,
  data: Float32Array.from(tensor.data as Float32Array, (value) => Math.abs(value) + 0.2),
});

/** One node: inputs that are fed, constants that are part of the model, attributes. */
interface Case {
  readonly operator: string;
  readonly fed: readonly (TypedTensor | undefined)[];
  /** After the fed ones; undefined leaves an optional input out. */
  readonly fixed?: readonly (TypedTensor | undefined)[];
  readonly attributes?: Parameters<typeof attributes>[0];
  readonly outputs?: number;
  readonly opset?: number;
}

const cases: readonly Case[] = [
  ...'Abs Cos Erf Exp Neg Relu Sigmoid Sign Sin Softplus Tanh Identity Floor Ceil Round Reciprocal HardSwish Mish Gelu Elu LeakyRelu HardSigmoid'
    .split(' ')
    .map((operator) => ({ operator, fed: [floats(2, 3)] })),
  { operator: 'Log', fed: [positive(floats(4))] },
  { operator: 'Sqrt', fed: [positive(floats(4))] },
  { operator: 'Gelu', fed: [floats(5)], attributes: { approximate: 'tanh' } },
  { operator: 'Elu', fed: [floats(5)], attributes: { alpha: 0.5 } },
  { operator: 'Dropout', fed: [floats(5)] },
  { operator: 'Not', fed: [bools([0, 1], [2])] },
  ...[
    'Add',
    'Sub',
    'Mul',
    'Div',
    'Max',
    'Min',
    'Less',
    'LessOrEqual',
    'Greater',
    'GreaterOrEqual',
    'Equal',
  ].map((operator) => ({ operator, fed: [floats(2, 1, 3), floats(4, 1)] })),
  { operator: 'Equal', fed: [bools([0, 1, 1], [3]), bools([0, 0, 1], [3])] },
  { operator: 'And', fed: [bools([0, 1, 1], [3]), bools([0, 0, 1], [3])] },
  { operator: 'Or', fed: [bools([0, 1, 1], [3]), bools([0, 0, 1], [3])] },
  { operator: 'Mod', fed: [integers([7, -7, 5]), integers([3])] },
  { operator: 'Sum', fed: [floats(2, 3), floats(3), floats(2, 1)] },
  { operator: 'Mean', fed: [floats(2, 3), floats(2, 3), floats(2, 3)] },
  { operator: 'Pow', fed: [positive(floats(3)), floats(3)] },
  { operator: 'Pow', fed: [floats(3)], fixed: [integers([2], [])] },
  {
    operator: 'Pow',
    fed: [floats(3)],
    fixed: [{ dtype: 'float32', shape: [1, 1], data: Float32Array.of(2) }],
  },
  { operator: 'Where', fed: [bools([0, 1], [2, 1]), floats(3), floats(2, 3)] },
  {
    operator: 'Clip',
    fed: [floats(6)],
    fixed: [{ dtype: 'float32', shape: [], data: Float32Array.of(-0.2) }],
  },
  { operator: 'Cast', fed: [floats(4)], attributes: { to: 7n } },
  { operator: 'CastLike', fed: [integers([1, 2]), floats(1)] },

  { operator: 'Reshape', fed: [floats(2, 3, 4)], fixed: [integers([0, -1])] },
  { operator: 'Flatten', fed: [floats(2, 3, 4)], attributes: { axis: 2n } },
  { operator: 'Squeeze', fed: [floats(1, 3, 1)], fixed: [integers([-1])] },
  { operator: 'Squeeze', fed: [floats(1, 3, 1)] },
  { operator: 'Unsqueeze', fed: [floats(3, 2)], fixed: [integers([0, -2])] },
  { operator: 'Transpose', fed: [floats(2, 3, 4)], attributes: { perm: [2, 0, 1] } },
  { operator: 'Transpose', fed: [floats(2, 3)] },
  { operator: 'Expand', fed: [floats(3, 1)], fixed: [integers([2, 1, 4])] },
  { operator: 'Tile', fed: [floats(2, 3)], fixed: [integers([2, 3])] },
  {
    operator: 'Slice',
    fed: [floats(5, 6)],
    fixed: [integers([1, -100]), integers([100, -1]), integers([0, 1]), integers([2, 3])],
  },
  {
    operator: 'Slice',
    fed: [floats(5, 6)],
    fixed: [integers([-1, 4]), integers([-100, 0]), integers([0, -1]), integers([-1, -2])],
  },
  { operator: 'Concat', fed: [floats(2, 1), floats(2, 3)], attributes: { axis: -1n } },
  { operator: 'Split', fed: [floats(2, 7)], attributes: { axis: 1n, num_outputs: 3n }, outputs: 3 },
  {
    operator: 'Split',
    fed: [floats(2, 7)],
    fixed: [integers([1, 4, 2])],
    attributes: { axis: 1n },
    outputs: 3,
  },
  { operator: 'Pad', fed: [floats(2, 3)], fixed: [integers([1, 0, 0, 2])] },
  {
    operator: 'Pad',
    fed: [floats(2, 3)],
    fixed: [integers([1, -1, 0, 2]), { dtype: 'float32', shape: [], data: Float32Array.of(0.7) }],
  },
  { operator: 'Pad', fed: [floats(2, 3)], fixed: [integers([2, 1]), undefined, integers([1])] },
  ...['reflect', 'edge', 'wrap'].map((mode) => ({
    operator: 'Pad',
    fed: [floats(3, 4)],
    fixed: [integers([1, 2, 2, 3])],
    attributes: { mode },
  })),
  {
    operator: 'Gather',
    fed: [floats(3, 4)],
    fixed: [integers([0, -1, 1, 1], [2, 2])],
    attributes: { axis: 1n },
  },
  {
    operator: 'GatherElements',
    fed: [floats(3, 4)],
    fixed: [integers([0, 2, 1, 1], [1, 4])],
    attributes: { axis: 0n },
  },
  { operator: 'GatherND', fed: [floats(3, 4)], fixed: [integers([0, 1, 2, 3], [2, 2])] },
  { operator: 'ScatterND', fed: [floats(4, 2)], fixed: [integers([3, 1], [2, 1]), floats(2, 2)] },
  {
    operator: 'ScatterND',
    fed: [floats(4, 2)],
    fixed: [integers([1, 1], [2, 1]), floats(2, 2)],
    attributes: { reduction: 'add' },
  },
  {
    operator: 'ScatterElements',
    fed: [floats(3, 2)],
    fixed: [integers([2, 0], [1, 2]), floats(1, 2)],
    attributes: { reduction: 'add' },
  },
  { operator: 'DepthToSpace', fed: [floats(1, 8, 2, 3)], attributes: { blocksize: 2n } },
  { operator: 'DepthToSpace', fed: [floats(1, 8, 2, 3)], attributes: { blocksize: 2n, mode: 'CRD' } },
  { operator: 'SpaceToDepth', fed: [floats(1, 2, 4, 6)], attributes: { blocksize: 2n } },
  { operator: 'Trilu', fed: [floats(3, 4)], fixed: [integers([1], [])] },
  { operator: 'Trilu', fed: [floats(2, 3, 3)], attributes: { upper: 0n } },
  {
    operator: 'Resize',
    fed: [floats(1, 2, 3, 2)],
    fixed: [undefined, undefined, integers([1, 2, 6, 4])],
    attributes: { mode: 'nearest', coordinate_transformation_mode: 'asymmetric', nearest_mode: 'floor' },
  },
  {
    operator: 'Resize',
    fed: [floats(1, 2, 3)],
    fixed: [undefined, { dtype: 'float32', shape: [3], data: Float32Array.of(1, 1, 2.5) }],
    attributes: { mode: 'nearest' },
  },
  {
    operator: 'Resize',
    fed: [floats(1, 1, 4, 4)],
    fixed: [undefined, undefined, integers([1, 1, 2, 3])],
    attributes: { mode: 'nearest', coordinate_transformation_mode: 'align_corners', nearest_mode: 'ceil' },
  },

  { operator: 'MatMul', fed: [floats(2, 3, 4), floats(4, 5)] },
  { operator: 'MatMul', fed: [floats(4), floats(2, 4, 5)] },
  { operator: 'MatMul', fed: [floats(2, 3, 4), floats(4)] },
  {
    operator: 'Gemm',
    fed: [floats(4, 2), floats(3, 4), floats(3)],
    attributes: { transA: 1n, transB: 1n, alpha: 0.5, beta: 2 },
  },
  { operator: 'Gemm', fed: [floats(2, 4), floats(4, 3)] },
  {
    operator: 'Einsum',
    fed: [floats(2, 3, 4, 5), floats(2, 3, 6, 5)],
    attributes: { equation: 'bhqd,bhkd->bhqk' },
  },
  { operator: 'Einsum', fed: [floats(2, 3), floats(4)], attributes: { equation: 'ij,k->kij' } },
  { operator: 'Einsum', fed: [floats(2, 3, 4)], attributes: { equation: 'ijk->kj' } },
  { operator: 'Einsum', fed: [floats(2, 3), floats(3, 4)], attributes: { equation: 'ij,jk' } },
  {
    operator: 'Conv',
    fed: [floats(1, 4, 5, 6), floats(6, 2, 3, 2), floats(6)],
    attributes: { pads: [1, 0, 1, 0], strides: [2, 1], group: 2n },
  },
  {
    operator: 'Conv',
    fed: [floats(1, 2, 4, 5, 4), floats(3, 2, 3, 1, 1)],
    attributes: { pads: [2, 0, 0, 0, 0, 0] },
  },
  {
    operator: 'Conv',
    fed: [floats(1, 2, 5), floats(3, 2, 2)],
    attributes: { auto_pad: 'SAME_UPPER', strides: [2] },
  },
  {
    operator: 'ConvTranspose',
    fed: [floats(1, 3, 4), floats(3, 2, 3)],
    attributes: { strides: [2], pads: [1, 0], output_padding: [1] },
  },
  { operator: 'GlobalAveragePool', fed: [floats(2, 3, 4, 5)] },

  {
    operator: 'LayerNormalization',
    fed: [floats(2, 3, 4), floats(3, 4), floats(3, 4)],
    attributes: { axis: 1n },
  },
  { operator: 'LayerNormalization', fed: [floats(2, 5), floats(5)], attributes: { epsilon: 0.1 } },
  { operator: 'RMSNormalization', fed: [floats(2, 5), floats(5)], attributes: { epsilon: 0.1 }, opset: 23 },
  { operator: 'SimplifiedLayerNormalization', fed: [floats(2, 5), floats(5)], attributes: { epsilon: 0.1 } },
  {
    operator: 'GroupNormalization',
    fed: [floats(2, 4, 3), floats(2), floats(2)],
    attributes: { num_groups: 2n },
  },
  {
    operator: 'GroupNormalization',
    fed: [floats(2, 4, 3), floats(4), floats(4)],
    attributes: { num_groups: 2n },
    opset: 21,
  },
  { operator: 'InstanceNormalization', fed: [floats(2, 3, 4), floats(3), floats(3)] },
  {
    operator: 'BatchNormalization',
    fed: [floats(2, 3, 4), floats(3), floats(3), floats(3), positive(floats(3))],
  },
  { operator: 'LpNormalization', fed: [floats(2, 4)], attributes: { axis: 1n, p: 2n } },
  { operator: 'LpNormalization', fed: [floats(2, 4)], attributes: { axis: 1n, p: 1n } },
  {
    operator: 'Attention',
    fed: [floats(2, 4, 3, 6), floats(2, 2, 5, 6), floats(2, 2, 5, 4), floats(3, 5)],
    opset: 23,
  },
  {
    operator: 'Attention',
    fed: [floats(2, 3, 8), floats(2, 3, 8), floats(2, 3, 8)],
    attributes: { q_num_heads: 2n, kv_num_heads: 2n, is_causal: 1n, scale: 0.3 },
    opset: 23,
  },
  { operator: 'RotaryEmbedding', fed: [floats(2, 3, 4, 6), floats(2, 4, 3), floats(2, 4, 3)], opset: 23 },
  {
    operator: 'RotaryEmbedding',
    fed: [floats(1, 4, 12), floats(9, 2), floats(9, 2), integers([0, 3, 8, 1], [1, 4])],
    attributes: { num_heads: 2n, rotary_embedding_dim: 4n, interleaved: 1n },
    opset: 23,
  },

  { operator: 'Softmax', fed: [floats(2, 3, 4)], attributes: { axis: 1n } },
  { operator: 'LogSoftmax', fed: [floats(2, 3)] },
  ...['ReduceSum', 'ReduceMean', 'ReduceMax', 'ReduceMin', 'ReduceSumSquare', 'ReduceL1', 'ReduceL2'].flatMap(
    (operator) => [
      { operator, fed: [floats(2, 3, 4)], fixed: [integers([0, -1])], attributes: { keepdims: 0n } },
      { operator, fed: [floats(2, 3, 4)] },
    ],
  ),
  { operator: 'ReduceSum', fed: [floats(2, 3)], attributes: { noop_with_empty_axes: 1n } },
  { operator: 'ReduceMean', fed: [floats(2, 3)], attributes: { axes: [1] }, opset: 13 },
  { operator: 'ReduceSum', fed: [integers([3, 4])] },
];

for (const [index, one] of cases.entries()) {
  const label = `${one.operator} ${JSON.stringify(one.attributes ?? {}, (_, value: unknown) => (typeof value === 'bigint' ? Number(value) : value))} of ${one.fed.map((tensor) => `[${tensor?.shape.join(', ')}]`).join(' ')}`;
  test(`${label} is what the runtime makes of it`, async () => {
    const fed = new Map(
      one.fed.flatMap((tensor, place) => (tensor === undefined ? [] : [[`x${place}`, tensor] as const])),
    );
    const fixed = new Map(
      (one.fixed ?? []).flatMap((tensor, place) =>
        tensor === undefined ? [] : [[`c${place}`, tensor] as const],
      ),
    );
    const outputs = Array.from({ length: one.outputs ?? 1 }, (_, place) => `y${place}`);
    const bytes = onnxModel({
      opset: one.opset ?? 20,
      inputs: Object.fromEntries(fed),
      initialisers: Object.fromEntries(fixed),
      nodes: [
        {
          opType: one.operator,
          name: 'only',
          input: [
            ...one.fed.map((tensor, place) => (tensor === undefined ? '' : `x${place}`)),
            ...(one.fixed ?? []).map((tensor, place) => (tensor === undefined ? '' : `c${place}`)),
          ],
          output: outputs,
          attribute: attributes(one.attributes ?? {}),
        },
      ],
      outputs,
    });
    const path = join(folder, `${index}.onnx`);
    await writeFile(path, bytes);
    const direct = await openSession('direct', bytes);
    const expected = await direct.run(Object.fromEntries(fed));
    await direct.close();

    const network = await importOnnx(path);
    const graph = new Graph();
    const made = network.apply(
      graph,
      Object.fromEntries(
        network.inputs.map(({ name, dtype, shape }) => [name, graph.input(name, dtype, shape)]),
      ),
    );
    for (const [name, tensor] of Object.entries(made)) graph.output(`plumb.${name}`, tensor);
    const own = await openSession('own', toOnnx(graph));
    // An input of which only the type counts is none of the model that is written.
    const read = new Set(own.inputs.map(({ name }) => name));
    const found = await own.run(Object.fromEntries([...fed].filter(([name]) => read.has(name))));
    await own.close();
    for (const name of outputs) {
      const [theirs, ours] = [expected[name], found[`plumb.${name}`]];
      assert.ok(theirs !== undefined && ours !== undefined);
      assert.deepEqual([ours.dtype, ours.shape], [theirs.dtype, theirs.shape]);
      for (const [place, value] of Array.from(theirs.data as ArrayLike<number | bigint>).entries()) {
        const other = Number(ours.data[place]);
        assert.ok(
          Math.abs(other - Number(value)) <= 1e-5 * Math.max(1, Math.abs(Number(value))),
          `${name}[${place}]: ${other}, ${value}`,
        );
      }
    }
  });
}

test('every operator that can be read is compared with the runtime', () => {
  const compared = new Set(cases.map(({ operator }) => operator));
  assert.deepEqual(
    [...translators.keys()].filter((operator) => !compared.has(operator)),
    [],
  );
});
