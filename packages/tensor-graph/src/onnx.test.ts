import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openSession } from './engine/session.ts';
import { add, Graph, linear, mul, relu, split, toOnnx } from './index.ts';

test('a network of two layers runs', async () => {
  const g = new Graph();
  const x = g.input('x', 'float32', [1, 2]);
  const hidden = relu(linear(x, g.constant([1, -1, 2, 1], [2, 2]), g.constant([0, 1], [2])));
  g.output('y', linear(hidden, g.constant([1, 10], [2, 1])));
  const session = await openSession('two layers', toOnnx(g));
  const { y } = await session.run({ x: { dtype: 'float32', shape: [1, 2], data: Float32Array.of(3, 1) } });
  // hidden = relu([3 + 2, -3 + 1 + 1]) = [5, 0]
  assert.deepEqual(y, { dtype: 'float32', shape: [1, 1], data: Float32Array.of(5) });
  await session.close();
});

test('frozen weights become part of the model', async () => {
  const g = new Graph();
  const x = g.input('x', 'float32', [2]);
  g.output('y', mul(x, g.parameter('w', [2])));
  const session = await openSession(
    'frozen',
    toOnnx(g, { initialisers: new Map([['w', Float32Array.of(2, 3)]]) }),
  );
  assert.deepEqual(
    session.inputs.map((spec) => spec.name),
    ['x'],
  );
  const { y } = await session.run({ x: { dtype: 'float32', shape: [2], data: Float32Array.of(1, 1) } });
  assert.deepEqual(y?.data, Float32Array.of(2, 3));
  await session.close();
});

test('what no output needs is left out', async () => {
  const g = new Graph();
  const x = g.input('x', 'float32', [2]);
  const unused = g.input('unused', 'float32', [2]);
  add(mul(unused, 3), x);
  g.output('y', add(x, 1));
  g.output('z', add(unused, 1));
  const session = await openSession('pruned', toOnnx(g, { outputs: ['y'] }));
  assert.deepEqual(
    [session.inputs, session.outputs].map((specs) => specs.map((spec) => spec.name)),
    [['x'], ['y']],
  );
  await session.close();
});

test('an input can be an output, and a value two outputs', async () => {
  const g = new Graph();
  const x = g.input('x', 'int64', [1]);
  g.output('same', x);
  g.output('again', x);
  g.output('fixed', g.scalar(7));
  const session = await openSession('aliases', toOnnx(g));
  const results = await session.run({ x: { dtype: 'int64', shape: [1], data: BigInt64Array.of(5n) } });
  assert.deepEqual(
    Object.values(results).map(({ data }) => Number(data[0])),
    [5, 5, 7],
  );
  await session.close();
});

test('a split may leave parts unread', async () => {
  const g = new Graph();
  const [, middle] = split(g.input('x', 'float32', [3]), 0, [1, 1, 1]);
  assert.ok(middle !== undefined);
  g.output('middle', middle);
  const session = await openSession('split', toOnnx(g));
  const { middle: result } = await session.run({
    x: { dtype: 'float32', shape: [3], data: Float32Array.of(1, 2, 3) },
  });
  assert.deepEqual(result?.data, Float32Array.of(2));
  await session.close();
});

test('equal graphs give equal bytes', () => {
  const build = (): Uint8Array => {
    const g = new Graph();
    g.output('y', linear(g.input('x', 'float32', [1, 2]), g.constant([1, 2, 3, 4], [2, 2])));
    return toOnnx(g);
  };
  assert.deepEqual(build(), build());
});

test('mistakes in writing are named', () => {
  const g = new Graph();
  assert.throws(() => toOnnx(g), /toOnnx\.outputs: are none/);
  const x = g.input('x', 'float32', [2]);
  g.output('y', x);
  assert.throws(() => toOnnx(g, { outputs: ['q'] }), /toOnnx\.outputs: has "q"; the graph's outputs are y/);
  assert.throws(
    () => toOnnx(g, { initialisers: new Map([['q', Float32Array.of(1)]]) }),
    /holds "q", which is no input/,
  );
  assert.throws(
    () => toOnnx(g, { initialisers: new Map([['x', Float32Array.of(1)]]) }),
    /gives 1 float32 elements for "x", which needs 2 of float32/,
  );
});
