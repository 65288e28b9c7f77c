import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, open, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { openInThread } from '../engine/index.ts';
import type { TypedTensor } from '../engine/typed-tensor.ts';
import {
  add,
  buildTrainingStep,
  Graph,
  gradients,
  initialTrainingState,
  mul,
  reduceSum,
  square,
  toOnnx,
} from '../index.ts';
import { attributes, externalTensor, onnxModel } from '../testing/onnx-models.ts';
import type { ModelSpec } from '../testing/onnx-models.ts';
import type { OnnxImportOptions } from './import.ts';
import { importOnnx } from './import.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'plumb-import-'));
});
after(() => rm(folder, { recursive: true, force: true }));

const vector = (...values: number[]): TypedTensor => ({
  dtype: 'float32',
  shape: [values.length],
  data: Float32Array.from(values),
});
const longs = (...values: number[]): TypedTensor => ({
  dtype: 'int64',
  shape: [values.length],
  data: BigInt64Array.from(values, BigInt),
});
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

let count = 0;
async function save(spec: ModelSpec): Promise<string> {
  const path = join(folder, `model${count++}.onnx`);
  await writeFile(path, onnxModel(spec));
  return path;
}

/** y = x w, with w [2, 2] somewhere else. */
function productWith(place: Readonly<Record<string, string>>): ModelSpec {
  return {
    inputs: { x: { dtype: 'float32', shape: [1, 2] } },
    tensors: [externalTensor('w', [2, 2], place)],
    nodes: [{ opType: 'MatMul', name: '/layers.0/MatMul', input: ['x', 'w'], output: ['y'] }],
    outputs: ['y'],
  };
}

test('shapes that a model computes from its inputs are worked out', async () => {
  // Flattens all but the batch, by Shape, Gather, Mul, Unsqueeze, Concat and Reshape, as exporters do.
  const path = await save({
    inputs: { x: { dtype: 'float32', shape: ['batch', 'tokens', 3] } },
    initialisers: {
      zero: { dtype: 'int64', shape: [], data: BigInt64Array.of(0n) },
      one: { dtype: 'int64', shape: [], data: BigInt64Array.of(1n) },
      three: { dtype: 'int64', shape: [], data: BigInt64Array.of(3n) },
      axis: longs(0),
    },
    nodes: [
      { opType: 'Shape', input: ['x'], output: ['shape'] },
      { opType: 'Gather', input: ['shape', 'zero'], output: ['batch'] },
      { opType: 'Gather', input: ['shape', 'one'], output: ['tokens'] },
      { opType: 'Mul', input: ['tokens', 'three'], output: ['width'] },
      { opType: 'Unsqueeze', input: ['batch', 'axis'], output: ['rows'] },
      { opType: 'Unsqueeze', input: ['width', 'axis'], output: ['columns'] },
      {
        opType: 'Concat',
        input: ['rows', 'columns'],
        output: ['target'],
        attribute: attributes({ axis: 0n }),
      },
      { opType: 'Reshape', input: ['x', 'target'], output: ['y'] },
      { opType: 'Range', input: ['zero', 'tokens', 'one'], output: ['places'] },
      { opType: 'Cast', input: ['places'], output: ['z'], attribute: attributes({ to: 1n }) },
    ],
    outputs: ['y', 'z'],
  });
  const network = await importOnnx(path, { dimensions: { batch: 2, tokens: 5 } });
  assert.deepEqual(network.inputs, [{ name: 'x', dtype: 'float32', shape: [2, 5, 3] }]);
  assert.deepEqual(network.outputs, [
    { name: 'y', dtype: 'float32', shape: [2, 15] },
    { name: 'z', dtype: 'float32', shape: [5] },
  ]);
  const graph = new Graph();
  const { y } = network.apply(graph, { x: graph.input('x', 'float32', [2, 5, 3]) });
  assert.deepEqual(
    graph.nodes.map(({ operator }) => operator),
    ['Reshape'],
  );
  assert.deepEqual(y?.shape, [2, 15]);
  assert.throws(() => network.apply(graph, {}), /inputs\.x: is missing/);
  assert.throws(
    () => network.apply(graph, { x: graph.input('other', 'float32', [1, 5, 3]) }),
    /inputs\.x: is float32 \[1, 5, 3\]; .* was imported for float32 \[2, 5, 3\]/,
  );
});

test('external weights beyond 2 GiB stay in their file and are trained around', async () => {
  const file = join(folder, 'large.data');
  const offset = 2 ** 31 + 4096;
  // A file with holes: nothing of it is read but the weights.
  const handle = await open(file, 'w');
  await handle.write(Buffer.from(Float32Array.of(1, 2, 3, 4).buffer), 0, 16, offset);
  await handle.close();
  await truncate(file, offset + 2 ** 20);
  const path = await save(productWith({ location: 'large.data', offset: String(offset), length: '16' }));
  const network = await importOnnx(path);
  assert.deepEqual(network.files, [path.split('/').at(-1), 'large.data']);
  assert.deepEqual(network.linearLayers, [
    { module: 'layers.0', inputs: 2, outputs: 2, weight: 'w', layout: 'inputs-first' },
  ]);

  const graph = new Graph();
  const scale = graph.parameter('scale', [2]);
  const x = graph.input('x', 'float32', [1, 2]);
  const first = network.apply(graph, { x: mul(x, scale) })['y'];
  const second = network.apply(graph, { x })['y'];
  assert.ok(first !== undefined && second !== undefined);
  // Both calls read one weight.
  const externals = graph.nodes
    .flatMap(({ inputs }) => inputs)
    .filter((input) => input?.source.kind === 'external');
  assert.equal(new Set(externals).size, 1);
  const program = buildTrainingStep({ graph, loss: reduceSum(square(add(first, second))) });
  assert.ok(program.gradientModel.length < 10_000);
  const engine = openInThread({ intraOpThreads: 1 });
  const state = initialTrainingState(program, { scale: Float32Array.of(1, -1) });
  const id = await engine.openTraining('external', program, state, { lanes: 1 });
  const feeds = { x: { dtype: 'float32' as const, shape: [1, 2], data: Float32Array.of(2, 3) } };
  // y = [2 s0 + 2, 3 s1 + 3] W = [4, 0] W = [4, 8]; dL/ds = 2 y W' x = [2 (4 + 16) 2, 2 (12 + 32) 3]
  assert.equal((await engine.trainStep(id, feeds, { learningRate: 0 }))['loss'], 80);
  const { firstMoment } = await engine.readTraining(id);
  const moments = Array.from(firstMoment['scale'] ?? [], (value) => Math.round(value * 1000) / 100);
  assert.deepEqual(moments, [80, 264]);
  await engine.close();
});

test('the same inputs in half precision can be computed in float32', async () => {
  const path = await save({
    inputs: { x: { dtype: 'float16', shape: [2] } },
    initialisers: { w: { dtype: 'float16', shape: [2], data: Uint16Array.of(0x3c00, 0xc000) } },
    nodes: [{ opType: 'Mul', input: ['x', 'w'], output: ['y'] }],
    outputs: ['y'],
  });
  assert.equal((await importOnnx(path)).inputs[0]?.dtype, 'float16');
  const network = await importOnnx(path, { halfPrecision: 'float32' });
  const graph = new Graph();
  const { y } = network.apply(graph, { x: graph.input('x', 'float32', [2]) });
  assert.ok(y?.dtype === 'float32');
  graph.output('out', y);
  const engine = openInThread({ intraOpThreads: 1 });
  await engine.load('m', toOnnx(graph));
  const { out } = await engine.run('m', { x: vector(3, 5) });
  assert.deepEqual([...((out?.data ?? []) as Float32Array)], [3, -10]);
  await engine.close();
});

test('layers are called after their modules, whatever exporters call their weights', async () => {
  const matrix = { dtype: 'float32' as const, shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) };
  const path = await save({
    inputs: { x: { dtype: 'float32', shape: [1, 2] } },
    initialisers: {
      'onnx::MatMul_7': matrix,
      val_3: matrix,
      'net.a.to_v.weight': matrix,
      'net.b.proj.weight': matrix,
      'net.a.to_out.bias': vector(1, 2),
    },
    nodes: [
      { opType: 'MatMul', name: '/net/a/to_q/MatMul', input: ['x', 'onnx::MatMul_7'], output: ['q'] },
      {
        opType: 'MatMul',
        name: 'node_MatMul_4',
        input: ['q', 'val_3'],
        output: ['k'],
        metadataProps: [
          { key: 'pkg.torch.onnx.name_scopes', value: "['', 'net', 'net.a', 'net.a.to_k', 'linear']" },
        ],
      },
      {
        opType: 'Transpose',
        input: ['net.a.to_v.weight'],
        output: ['t'],
        attribute: attributes({ perm: [1, 0] }),
      },
      { opType: 'MatMul', name: 'product', input: ['k', 't'], output: ['u'] },
      { opType: 'MatMul', name: 'biased', input: ['u', 'val_3'], output: ['w'] },
      { opType: 'Add', name: 'add', input: ['w', 'net.a.to_out.bias'], output: ['v'] },
      {
        opType: 'Gemm',
        name: 'last',
        input: ['v', 'net.b.proj.weight'],
        output: ['y'],
        attribute: attributes({ transB: 1n }),
      },
    ],
    outputs: ['y'],
  });
  const { linearLayers } = await importOnnx(path, { rootModule: 'net' });
  assert.deepEqual(
    linearLayers.map(({ module }) => module),
    ['a.to_q', 'a.to_k', 'a.to_v', 'a.to_out', 'b.proj'],
  );
  const network = await importOnnx(path);
  const graph = new Graph();
  const seen: string[] = [];
  const { y } = network.apply(
    graph,
    { x: graph.input('x', 'float32', [1, 2]) },
    {
      adapt(layer, _input, result) {
        seen.push(layer.module);
        return layer.module === 'net.b.proj' ? add(result, 1) : result;
      },
    },
  );
  assert.deepEqual(seen, ['net.a.to_q', 'net.a.to_k', 'net.a.to_v', 'net.a.to_out', 'net.b.proj']);
  assert.ok(y?.source.kind === 'node' && y.source.node.operator === 'Add');
});

test('modules that match a pattern are checkpoints of their own', async () => {
  const step = (name: string, from: string, to: string): ModelSpec['nodes'][number] => ({
    opType: 'Exp',
    name,
    input: [from],
    output: [to],
  });
  const path = await save({
    inputs: { x: { dtype: 'float32', shape: [2] } },
    nodes: [
      step('/in/Exp', 'x', 'a'),
      step('/blocks.0/one/Exp', 'a', 'b'),
      step('/blocks.0/two/Exp', 'b', 'c'),
      step('/blocks.1/one/Exp', 'c', 'd'),
      step('/out/Exp', 'd', 'y'),
    ],
    outputs: ['y'],
  });
  const network = await importOnnx(path);
  const graph = new Graph();
  network.apply(graph, { x: graph.input('x', 'float32', [2]) }, { rematerialise: ['blocks.*'] });
  const [before, one, two, three, behind] = graph.nodes.map((node) => graph.checkpointOf(node));
  assert.deepEqual([before, behind], [undefined, undefined]);
  assert.ok(one !== undefined && one === two && three !== undefined && three !== one);
});

test('modules to compute anew are those of the weights where nodes name none; none at all is an error', async () => {
  const path = await save({
    inputs: { x: { dtype: 'float32', shape: [2] } },
    initialisers: { 'blocks.0.scale.weight': vector(1, 2), 'blocks.1.scale.weight': vector(3, 4) },
    nodes: [
      { opType: 'Mul', name: 'm0', input: ['x', 'blocks.0.scale.weight'], output: ['a'] },
      { opType: 'Exp', name: 'e0', input: ['a'], output: ['b'] },
      { opType: 'Mul', name: 'm1', input: ['b', 'blocks.1.scale.weight'], output: ['y'] },
    ],
    outputs: ['y'],
  });
  const network = await importOnnx(path);
  const graph = new Graph();
  const x = graph.input('x', 'float32', [2]);
  network.apply(graph, { x }, { rematerialise: ['blocks.*'] });
  const [first, same, other] = graph.nodes.map((node) => graph.checkpointOf(node));
  assert.ok(first !== undefined && first === same && other !== undefined && other !== first);
  assert.throws(() => network.apply(graph, { x }, { rematerialise: ['layers.*'] }), {
    code: 'INVALID_ARGUMENT',
    message: /rematerialise: looks for modules layers\.\*, but .* called, for example, blocks\.0\.scale/,
  });
});

test('an operator without a gradient is named with its node', async () => {
  const path = await save({
    inputs: { x: { dtype: 'float32', shape: [2] } },
    nodes: [{ opType: 'Round', name: '/head/Round', input: ['x'], output: ['y'] }],
    outputs: ['y'],
  });
  const network = await importOnnx(path);
  const graph = new Graph();
  const x = graph.parameter('x', [2]);
  const { y } = network.apply(graph, { x });
  assert.ok(y !== undefined);
  assert.throws(() => gradients(reduceSum(y), [x]), {
    code: 'UNIMPLEMENTED',
    message: /operator Round \(node \/head\/Round\/Round_\d+\) has no gradient/,
  });
});

test('models that cannot be read are refused with the file and what to do', async () => {
  await writeFile(join(folder, 'small.data'), new Uint8Array(16));
  await writeFile(join(folder, 'noise.onnx'), 'no model');
  const outside = await mkdtemp(join(tmpdir(), 'plumb-outside-'));
  await writeFile(join(outside, 'secret'), new Uint8Array(16));
  await mkdir(join(folder, 'sub'), { recursive: true });
  await symlink(join(outside, 'secret'), join(folder, 'sub', 'link.data'));
  const x = { dtype: 'float32' as const, shape: ['batch', 2] };
  const identity = { opType: 'Identity', name: 'id', input: ['x'], output: ['y'] };
  const plain: ModelSpec = { inputs: { x }, nodes: [identity], outputs: ['y'] };
  const cases: [spec: ModelSpec, options: OnnxImportOptions, code: string, message: RegExp][] = [
    [
      { ...plain, opset: 9 },
      {},
      'INVALID_ARGUMENT',
      /\.onnx is written for ONNX operator set 9; 13 to 23 can be read/,
    ],
    [plain, {}, 'INVALID_ARGUMENT', /dimensions\.batch: .*\.onnx: is missing; it is axis 0 of input x/],
    [
      plain,
      { dimensions: { batch: 1, depth: 2 } },
      'INVALID_ARGUMENT',
      /dimensions\.depth: .* is no dimension; there are batch/,
    ],
    [
      plain,
      { shapes: { x: [1, 3] } },
      'INVALID_ARGUMENT',
      /shapes\.x: .* \[1, 3\] is not of the form \[batch, 2\]/,
    ],
    [plain, { shapes: { z: [1] } }, 'INVALID_ARGUMENT', /shapes\.z: .* is no input; inputs are x/],
    [
      { ...plain, inputs: { x: { dtype: 'float32', shape: ['', 2] } } },
      {},
      'INVALID_ARGUMENT',
      /shapes\.x: .* is missing; axis 0 of the input has no name/,
    ],
    [
      { ...plain, nodes: [{ ...identity, domain: 'com.microsoft', opType: 'QuickGelu' }] },
      {},
      'INVALID_ARGUMENT',
      /node id is operator QuickGelu of domain com\.microsoft/,
    ],
    [
      { ...plain, nodes: [{ ...identity, opType: 'GridSample' }] },
      { dimensions: { batch: 1 } },
      'UNIMPLEMENTED',
      /node id \(GridSample\) cannot be read/,
    ],
    [
      {
        inputs: { x, n: { dtype: 'int64', shape: [2] } },
        nodes: [{ opType: 'Reshape', name: 'r', input: ['x', 'n'], output: ['y'] }],
        outputs: ['y'],
      },
      { dimensions: { batch: 1 } },
      'INVALID_ARGUMENT',
      /node r \(Reshape\) needs the values of its input n when the model is imported/,
    ],
    [
      {
        ...plain,
        initialisers: { n: longs(3) },
        nodes: [{ opType: 'Reshape', name: 'r', input: ['x', 'n'], output: ['y'] }],
      },
      { dimensions: { batch: 1 } },
      'INVALID_ARGUMENT',
      /node r \(Reshape\) does not fit: reshape\.shape: \[3\] does not hold the 2 elements/,
    ],
    [
      { ...plain, outputs: ['q'] },
      { dimensions: { batch: 1 } },
      'INVALID_ARGUMENT',
      /nothing makes the value q/,
    ],
    [
      productWith({ location: 'gone.data' }),
      {},
      'NOT_FOUND',
      /model\d+\.onnx: external data gone\.data' does not exist/,
    ],
    [productWith({ location: '../x.data' }), {}, 'INVALID_ARGUMENT', /initialiser w lies in "\.\.\/x\.data"/],
    [
      productWith({ location: '/etc/hosts' }),
      {},
      'INVALID_ARGUMENT',
      /must lie in the model's folder or below/,
    ],
    [
      productWith({ location: 'sub/link.data' }),
      {},
      'INVALID_ARGUMENT',
      /which is a link out of the model's folder/,
    ],
    [
      productWith({ location: 'small.data', offset: '4' }),
      {},
      'DATA_LOSS',
      /bytes 4 to 20 of small\.data, which has 16; .* needs 16: the file is cut off/,
    ],
    [
      productWith({ location: 'small.data', checksum: '00' }),
      {},
      'DATA_LOSS',
      /small\.data is not the file .* SHA-1 00/,
    ],
    [
      productWith({ location: 'small.data' }),
      { hashes: {} },
      'INVALID_ARGUMENT',
      /hashes\.model\d+\.onnx: is missing/,
    ],
  ];
  for (const [spec, options, code, message] of cases) {
    await assert.rejects(importOnnx(await save(spec), options), { code, message });
  }
  const path = await save(productWith({ location: 'small.data' }));
  const [name = ''] = path.split('/').slice(-1);
  const hashes = { [name]: sha256(await readFile(path)), 'small.data': sha256(new Uint8Array(16)) };
  await importOnnx(path, { hashes });
  await writeFile(
    join(folder, 'small.data'),
    Uint8Array.from({ length: 16 }, () => 1),
  );
  await assert.rejects(importOnnx(path, { hashes }), {
    code: 'DATA_LOSS',
    message: /small\.data is not the file that it should be/,
  });
  await assert.rejects(importOnnx(join(folder, 'noise.onnx')), {
    code: 'DATA_LOSS',
    message: /noise\.onnx is not an ONNX model/,
  });
  await assert.rejects(importOnnx(join(folder, 'absent.onnx')), {
    code: 'NOT_FOUND',
    message: /absent\.onnx' does not exist/,
  });
  await rm(outside, { recursive: true });
});
