import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { execFileSync } from 'node:child_process';
import { Graph, initialTrainingState, matMul, mul, tanh, toOnnx } from '../index.ts';
import { randomBatch, randomParameters, smallProgram } from '../testing/small-network.ts';
import type { Engine, TypedTensor } from './index.ts';
import { openEngine, openInThread, openTrainingSession } from './index.ts';

function doubler(): Uint8Array {
  const g = new Graph();
  const x = g.input('x', 'float32', [3]);
  g.output('double', mul(x, 2));
  g.output('half', mul(x, 0.5));
  return toOnnx(g);
}

/** A model that takes seconds, so that something can happen while it runs. */
function slow(): Uint8Array {
  const g = new Graph();
  let x = g.input('x', 'float32', [1024, 1024]);
  for (let layer = 0; layer < 20; layer += 1) x = tanh(matMul(x, x));
  g.output('y', x);
  return toOnnx(g);
}
const large = { x: { dtype: 'float32', shape: [1024, 1024], data: new Float32Array(1024 * 1024) } } as const;

const floats = (...values: number[]): TypedTensor => ({
  dtype: 'float32',
  shape: [values.length],
  data: Float32Array.from(values),
});

const forms = {
  thread: () => Promise.resolve(openInThread({ intraOpThreads: 1 })),
  worker: () => openEngine({ form: 'worker', intraOpThreads: 1 }),
  process: () => openEngine({ form: 'process', intraOpThreads: 1 }),
};

for (const [form, open] of Object.entries(forms)) {
  describe(`the ${form} form`, () => {
    let engine: Engine | undefined;
    const opened = async (): Promise<Engine> => (engine ??= await open());
    after(() => engine?.close());

    test('runs a model', async () => {
      const { load, run } = bound(await opened());
      await load('doubler', doubler());
      const x = floats(1, 2, 3);
      assert.deepEqual(await run('doubler', { x }), { double: floats(2, 4, 6), half: floats(0.5, 1, 1.5) });
      assert.deepEqual(await run('doubler', { x }, ['half']), { half: floats(0.5, 1, 1.5) });
      assert.deepEqual(x, floats(1, 2, 3), 'feeds stay with the caller');
    });

    test('takes feeds from shared memory', async () => {
      const data = new Float32Array(new SharedArrayBuffer(12));
      data.set([1, 2, 3]);
      const { double } = await (await opened()).run('doubler', { x: { dtype: 'float32', shape: [3], data } });
      assert.deepEqual(double, floats(2, 4, 6));
    });

    test('answers many calls at once, each with its own result', async () => {
      const it = await opened();
      const results = await Promise.all(
        Array.from({ length: 50 }, (_, index) => it.run('doubler', { x: floats(index, 0, 0) }, ['double'])),
      );
      assert.deepEqual(
        results.map(({ double }) => double?.data[0]),
        Array.from({ length: 50 }, (_, index) => 2 * index),
      );
    });

    test('gives typed errors', async () => {
      const it = await opened();
      await assert.rejects(it.load('broken', Uint8Array.of(1, 2, 3)), {
        name: 'PlumbError',
        code: 'DATA_LOSS',
        reason: 'MODEL_CORRUPT',
        message: /model 'broken' cannot be loaded \(3 bytes\)/,
      });
      await assert.rejects(it.run('nothing', {}), { code: 'NOT_FOUND', message: /model 'nothing'/ });
      await assert.rejects(it.run('doubler', {}), {
        code: 'INVALID_ARGUMENT',
        message: /feeds\.x: is missing/,
      });
      await assert.rejects(it.run('doubler', { x: floats(1) }), {
        message: /feeds\.x: is float32 \[1\]; .* float32 \[3\]/,
      });
      await assert.rejects(it.run('doubler', { x: floats(1, 2, 3), y: floats(1) }), {
        message: /feeds\.y: is no input/,
      });
      await assert.rejects(it.run('doubler', { x: floats(1, 2, 3) }, ['z']), { message: /holds 'z'/ });
      await assert.rejects(it.run('doubler', { x: { ...floats(1, 2), shape: [3] } }), {
        message: /feeds\.x: has 2 elements, but shape \[3\] needs 3/,
      });
      await assert.rejects(
        it.run('doubler', { x: floats(1, 2, 3) }, undefined, { signal: AbortSignal.abort() }),
        {
          code: 'CANCELLED',
        },
      );
      await it.unload('doubler');
      await assert.rejects(it.run('doubler', { x: floats(1, 2, 3) }), { code: 'NOT_FOUND' });
    });

    test('runs a model round and round, and gives what comes out last', async () => {
      const it = await opened();
      const g = new Graph();
      const [x, factor] = [g.input('x', 'float32', [3]), g.input('factor', 'float32', [1])];
      g.output('product', mul(x, factor));
      g.output('unused', mul(x, 0));
      await it.load('product', toOnnx(g));
      const x0 = floats(1, 2, 3);
      const carry = { x: 'product' };
      const steps = [2, 5, 0.5].map((value) => ({ factor: floats(value) }));
      const once = await it.iterate('product', { x: x0 }, { carry, steps });
      assert.deepEqual(once, { product: floats(5, 10, 15) });
      const [first, ...rest] = steps;
      assert.ok(first !== undefined);
      const { product } = await it.iterate('product', { x: x0 }, { carry, steps: [first] });
      assert.ok(product !== undefined);
      assert.deepEqual(await it.iterate('product', { x: product }, { carry, steps: rest }), once);
      assert.deepEqual(x0, floats(1, 2, 3), 'feeds stay with the caller');
      await assert.rejects(it.iterate('product', { x: x0 }, { carry, steps: [] }), {
        code: 'INVALID_ARGUMENT',
        message: /iteration\.steps: is empty/,
      });
      await assert.rejects(it.iterate('product', { x: x0 }, { carry, steps: [{}] }), {
        message: /feeds\.factor: is missing/,
      });
      await assert.rejects(it.iterate('product', { x: x0 }, { carry: { x: 'nothing' }, steps }), {
        message: /holds 'nothing'/,
      });
    });

    test('trains as a session in this thread does, bit for bit', async () => {
      const it = await opened();
      const program = smallProgram();
      const state = initialTrainingState(program, randomParameters(program, 1));
      const reference = await openTrainingSession('reference', program, state, {
        lanes: 2,
        intraOpThreads: 1,
      });
      const id = await it.openTraining('small', program, state, { lanes: 2 });
      const scalars = { learningRate: 0.01, emaDecay: 0.9 };
      for (let step = 0; step < 3; step += 1) {
        const batch = randomBatch(8, step);
        assert.deepEqual(await it.trainStep(id, batch, scalars), await reference.step(batch, scalars));
      }
      const reached = await it.readTraining(id);
      assert.deepEqual(reached, reference.state());
      await it.trainStep(id, randomBatch(8, 3), scalars);
      await it.restoreTraining(id, reached);
      assert.deepEqual(await it.readTraining(id), reached);
      await it.closeTraining(id);
      await assert.rejects(it.trainStep(id, {}, scalars), {
        code: 'NOT_FOUND',
        message: /training 'small#1'/,
      });
      await reference.close();
    });

    test('measures a training on its parameters of now, and changes nothing', async () => {
      const it = await opened();
      const g = new Graph();
      g.output('scaled', mul(g.parameter('b1', [8]), g.input('by', 'float32', [8])));
      await it.load('measure', toOnnx(g));
      const program = smallProgram();
      const start = initialTrainingState(program, randomParameters(program, 1));
      const id = await it.openTraining('measured', program, start, { lanes: 2 });
      const by = floats(2, 2, 2, 2, 2, 2, 2, 2);
      for (let step = 0; step < 3; step += 1) {
        const before = await it.readTraining(id);
        const { scaled } = await it.measureTraining(id, { by }, 'measure');
        assert.deepEqual(
          scaled?.data,
          before.parameters['b1']?.map((value) => 2 * value),
        );
        assert.deepEqual(await it.readTraining(id), before);
        await it.trainStep(id, randomBatch(8, step), { learningRate: 0.01, emaDecay: 0.9 });
      }
      await assert.rejects(it.measureTraining(id, { by }, 'nothing'), { code: 'NOT_FOUND' });
      await assert.rejects(it.measureTraining(id, {}, 'measure'), { code: 'INVALID_ARGUMENT' });
      await it.closeTraining(id);
    });

    test('closes cleanly, and says so afterwards', async () => {
      const it = await opened();
      await Promise.all([it.close(), it.close()]);
      assert.equal(await it.ended, undefined);
      await assert.rejects(it.run('doubler', {}), { code: 'UNAVAILABLE', message: /closed/ });
    });
  });
}

/** Methods of an engine as functions. */
function bound(engine: Engine): Pick<Engine, 'load' | 'run'> {
  return { load: (...args) => engine.load(...args), run: (...args) => engine.run(...args) };
}

/** The child of this process that hosts an engine. */
function hostPid(): number {
  const lines = execFileSync('ps', ['-o', 'pid=,args=', '--ppid', String(process.pid)], { encoding: 'utf8' });
  const line = lines.split('\n').find((text) => text.includes('host-process'));
  assert.ok(line !== undefined, lines);
  return Number.parseInt(line, 10);
}

test('a killed process rejects every pending call, and another engine can be opened', async () => {
  const engine = await openEngine({ form: 'process', intraOpThreads: 1 });
  await engine.load('slow', slow());
  const pending = [engine.run('slow', large), engine.run('slow', large)];
  process.kill(hostPid(), 'SIGKILL');
  for (const call of pending) {
    await assert.rejects(call, {
      code: 'UNAVAILABLE',
      reason: 'ENGINE_FAILED',
      message: /killed by SIGKILL/,
    });
  }
  assert.match(String(await engine.ended), /killed by SIGKILL/);
  await assert.rejects(engine.run('slow', large), { code: 'UNAVAILABLE' });
  await engine.close();

  await using stack = new AsyncDisposableStack();
  const next = stack.adopt(await openEngine({ form: 'process', intraOpThreads: 1 }), (it) => it.close());
  await next.load('doubler', doubler());
  assert.deepEqual(await next.run('doubler', { x: floats(1, 2, 3) }, ['half']), {
    half: floats(0.5, 1, 1.5),
  });
});

for (const form of ['worker', 'process'] as const) {
  test(`the ${form} form can be closed or given up while it works`, async () => {
    const engine = await openEngine({ form, intraOpThreads: 1 });
    await engine.load('slow', slow());
    const controller = new AbortController();
    const abandoned = engine.run('slow', large, [], { signal: controller.signal });
    const cutOff = engine.run('slow', large, []);
    controller.abort();
    await assert.rejects(abandoned, { code: 'CANCELLED' });
    const closed = engine.close();
    await assert.rejects(cutOff, { code: 'CANCELLED' });
    await closed;
  });
}

test('numbers of threads out of range are refused', async () => {
  await assert.rejects(openEngine({ intraOpThreads: 0 }), {
    code: 'INVALID_ARGUMENT',
    message: /intraOpThreads: 0/,
  });
  assert.throws(() => openInThread({ intraOpThreads: 1.5 }), /intraOpThreads: 1\.5/);
});
