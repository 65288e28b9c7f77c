import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { TrainingSession } from '../engine/training-session.ts';
import { openTrainingSession } from '../engine/training-session.ts';
import type { TypedTensor } from '../engine/typed-tensor.ts';
import {
  add,
  exp,
  gelu,
  Graph,
  initialTrainingState,
  layerNorm,
  linear,
  matMul,
  mul,
  reduceSum,
  reshape,
  softmax,
  swapLastAxes,
} from '../index.ts';
import { randomBatch, randomParameters, smallProgram } from '../testing/small-network.ts';
import type { Precision } from './precision.ts';
import { inPrecision, nextLossScaling } from './precision.ts';

const optimiser = { clipNorm: 1, ema: true, weightDecay: 0.01 };
const scalars = { learningRate: 0.01, emaDecay: 0.9 };

function open(precision: Precision, lanes = 1): Promise<TrainingSession> {
  const program = smallProgram(optimiser, precision);
  const state = initialTrainingState(program, randomParameters(program, 1));
  return openTrainingSession('small', program, state, { lanes });
}

/**
 * A batch whose scaled gradient overflows: in float16, and where the CPU computes float16 products in float32, its
 * squares do in float32.
 */
function overflowing(seed: number): Record<string, TypedTensor> {
  return { ...randomBatch(4, seed), weight: { dtype: 'float32', shape: [1], data: Float32Array.of(1e17) } };
}

test('products are computed in the lower precision, what needs its digits is not', () => {
  for (const low of ['float16', 'bfloat16'] as const) {
    const g = new Graph();
    const x = g.input('x', 'float32', [2, 4]);
    const hidden = gelu(
      linear(layerNorm(x, undefined, undefined), g.parameter('w', [4, 4]), g.parameter('b', [4])),
    );
    const heads = reshape(mul(hidden, 0.5), [1, 2, 4]);
    const weights = softmax(matMul(heads, swapLastAxes(heads)));
    g.output('y', reduceSum(exp(add(matMul(weights, heads), mul(heads, 1e-6)))));
    const dtypes = new Map(
      inPrecision(g, ['y'], new Map(), low).nodes.map(({ operator, outputs: [output] }) => [
        operator,
        output?.dtype,
      ]),
    );
    for (const operator of ['Gemm', 'BatchedProduct', 'Gelu', 'Reshape'])
      assert.equal(dtypes.get(operator), low, operator);
    for (const operator of ['LayerNormalization', 'Softmax', 'Exp', 'ReduceSum']) {
      assert.equal(dtypes.get(operator), 'float32', operator);
    }
    // 1e-6 would be a subnormal number in float16.
    assert.equal(dtypes.get('Add'), 'float32');
  }
});

test('float16 gradients are those of float32 to 3 digits, on one lane or two', async () => {
  for (const lanes of [1, 2]) {
    const [full, half] = [await open('float32', lanes), await open('float16', lanes)];
    const batch = randomBatch(8, 2);
    const [expected, found] = [await full.step(batch, scalars), await half.step(batch, scalars)];
    const close = (a: number | undefined, b: number | undefined, limit: number): void => {
      assert.ok(Math.abs(Number(a) - Number(b)) <= limit, `${a}, ${b}`);
    };
    for (const metric of ['loss', 'error', 'gradientNorm'])
      close(found[metric], expected[metric], 2e-3 * Number(expected[metric]));
    assert.equal(found['lossScale'], 2 ** 16);
    assert.equal(found['skippedSteps'], 0);
    const [reference, state] = [full.state(), half.state()];
    for (const [name, values] of Object.entries(reference.firstMoment)) {
      const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      for (const [index, value] of values.entries())
        close(state.firstMoment[name]?.[index], value, 2e-3 * largest);
    }
    await Promise.all([full.close(), half.close()]);
  }
});

test('a step whose gradient overflows changes no weight, halves the scale, and is counted', async () => {
  const session = await open('float16');
  await session.step(randomBatch(4, 0), scalars);
  const before = session.state();
  const report = await session.step(overflowing(1), scalars);
  assert.ok(
    Number.isFinite(report['loss']) && !Number.isFinite(report['gradientNorm']),
    JSON.stringify(report),
  );
  assert.deepEqual([report['lossScale'], report['skippedSteps']], [2 ** 15, 1]);
  assert.deepEqual(session.state(), {
    ...before,
    step: 2,
    lossScaling: { scale: 2 ** 15, stableSteps: 0, skippedSteps: 1 },
  });
  const after = await session.step(randomBatch(4, 2), scalars);
  assert.ok(Number.isFinite(after['gradientNorm']));
  await session.close();

  // A step that was skipped leaves the bias correction of AdamW where it was.
  const straight = await open('float16');
  await straight.step(randomBatch(4, 0), scalars);
  straight.restore({ ...straight.state(), lossScaling: { scale: 2 ** 15, stableSteps: 0, skippedSteps: 0 } });
  await straight.step(randomBatch(4, 2), scalars);
  const resumed = await open('float16');
  resumed.restore(before);
  await resumed.step(overflowing(1), scalars);
  await resumed.step(randomBatch(4, 2), scalars);
  assert.deepEqual(resumed.state().parameters, straight.state().parameters);
  await Promise.all([straight.close(), resumed.close()]);
});

test('a float16 session that goes on from a state ends with the same bits, skipped steps and all', async () => {
  const batches = [0, 1, 2, 3, 4].map((seed) => (seed % 2 === 1 ? overflowing(seed) : randomBatch(4, seed)));
  const [whole, first, second] = [await open('float16'), await open('float16'), await open('float16')];
  for (const batch of batches) await whole.step(batch, scalars);
  for (const batch of batches.slice(0, 2)) await first.step(batch, scalars);
  second.restore(structuredClone(first.state()));
  for (const batch of batches.slice(2)) await second.step(batch, scalars);
  assert.deepEqual(second.state(), whole.state());
  assert.equal(second.state().lossScaling?.skippedSteps, 2);
  await Promise.all([whole.close(), first.close(), second.close()]);
});

test('the loss scale grows after 2000 steps without overflow', () => {
  let scaling = { scale: 8, stableSteps: 0, skippedSteps: 1 };
  for (let step = 0; step < 1999; step++) scaling = nextLossScaling(scaling, false);
  assert.deepEqual(scaling, { scale: 8, stableSteps: 1999, skippedSteps: 1 });
  assert.deepEqual(nextLossScaling(scaling, false), { scale: 16, stableSteps: 0, skippedSteps: 1 });
  assert.deepEqual(nextLossScaling(scaling, true), { scale: 4, stableSteps: 0, skippedSteps: 2 });
});

test('a precision that the runtime has no products of is refused when training opens', async () => {
  for (const lanes of [1, 2]) {
    await assert.rejects(open('bfloat16', lanes), {
      code: 'UNIMPLEMENTED',
      message:
        /^optimisation\.precision: bfloat16 cannot be used here: ONNX Runtime has no Gemm of bfloat16 on the CPU \(node .*Gemm_\d+\); use float32$/,
    });
  }
});

test('a state belongs to the precision of its job', async () => {
  const half = await open('float16');
  const full = await open('float32');
  assert.throws(
    () => full.restore(half.state()),
    /state\.lossScaling: belongs to a float16 job; this one computes in float32/,
  );
  assert.throws(() => half.restore(full.state()), /state\.lossScaling: is missing/);
  await Promise.all([half.close(), full.close()]);
});
