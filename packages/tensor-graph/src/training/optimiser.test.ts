import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openSession } from '../engine/session.ts';
import type { TypedTensor } from '../engine/typed-tensor.ts';
import { adamW, clipByGlobalNorm, ema, Graph, toOnnx } from '../index.ts';

const scalar64 = (value: number): TypedTensor => ({
  dtype: 'float64',
  shape: [],
  data: Float64Array.of(value),
});
const vector64 = (...values: number[]): TypedTensor => ({
  dtype: 'float64',
  shape: [values.length],
  data: Float64Array.from(values),
});

test('AdamW takes the steps of algorithm 2 of its paper', async () => {
  const options = { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weightDecay: 0.1 };
  const rate = 0.01;
  const scale = 15;
  const g = new Graph();
  const vector = (name: string) => g.input(name, 'float64', [3]);
  const update = adamW(
    { step: g.input('step', 'float64', []), learningRate: g.input('rate', 'float64', []) },
    options,
  );
  const tensors = {
    parameter: vector('p'),
    gradient: vector('g'),
    firstMoment: vector('m'),
    secondMoment: vector('v'),
  };
  const decayed = update(tensors, { learningRateScale: scale });
  g.output('p.out', decayed.parameter);
  g.output('m.out', decayed.firstMoment);
  g.output('v.out', decayed.secondMoment);
  g.output('kept.out', update(tensors, { weightDecay: false }).parameter);
  const session = await openSession('adamw', toOnnx(g));

  let [p, m, v] = [
    [1, -2, 0.5],
    [0, 0, 0],
    [0, 0, 0],
  ];
  for (let step = 1; step <= 10; step += 1) {
    const gradient = [Math.sin(step), 3 * Math.cos(step), 1e-4 * step];
    const result = await session.run({
      step: scalar64(step),
      rate: scalar64(rate),
      p: vector64(...p),
      g: vector64(...gradient),
      m: vector64(...m),
      v: vector64(...v),
    });
    const [oldP, oldM, oldV] = [p, m, v];
    const at = (list: readonly number[], index: number): number => list[index] ?? Number.NaN;
    m = gradient.map((value, i) => options.beta1 * at(oldM, i) + (1 - options.beta1) * value);
    v = gradient.map((value, i) => options.beta2 * at(oldV, i) + (1 - options.beta2) * value * value);
    const direction = (i: number): number => {
      const first = at(m, i) / (1 - options.beta1 ** step);
      const second = at(v, i) / (1 - options.beta2 ** step);
      return first / (Math.sqrt(second) + options.epsilon);
    };
    const kept = oldP.map((value, i) => value - rate * direction(i));
    p = oldP.map((value, i) => value - rate * scale * (direction(i) + options.weightDecay * value));
    for (const [name, expected] of Object.entries({ 'p.out': p, 'm.out': m, 'v.out': v, 'kept.out': kept })) {
      for (const [i, value] of expected.entries()) {
        const actual = Number(result[name]?.data[i]);
        assert.ok(
          Math.abs(actual - value) <= 1e-12 * Math.max(1, Math.abs(value)),
          `${name}[${i}]: ${actual}, ${value}`,
        );
      }
    }
  }
  await session.close();
});

test('gradients are clipped together, and only when they are too long', async () => {
  const g = new Graph();
  const { clipped, norm } = clipByGlobalNorm([g.input('a', 'float64', [1]), g.input('b', 'float64', [1])], 1);
  for (const [index, tensor] of clipped.entries()) g.output(`clipped${index}`, tensor);
  g.output('norm', norm);
  const session = await openSession('clip', toOnnx(g));
  const long = await session.run({ a: vector64(3), b: vector64(-4) });
  assert.equal(long['norm']?.data[0], 5);
  // The 1e-6 in the denominator is PyTorch's, and part of the definition.
  assert.ok(Math.abs(Number(long['clipped0']?.data[0]) - 3 / (5 + 1e-6)) < 1e-12);
  assert.ok(Math.abs(Number(long['clipped1']?.data[0]) + 4 / (5 + 1e-6)) < 1e-12);
  const short = await session.run({ a: vector64(0.3), b: vector64(-0.4) });
  assert.deepEqual([short['clipped0']?.data[0], short['clipped1']?.data[0]], [0.3, -0.4]);
  const zero = await session.run({ a: vector64(0), b: vector64(0) });
  assert.deepEqual([zero['clipped0']?.data[0], zero['norm']?.data[0]], [0, 0]);
  await session.close();
});

test('the moving average keeps its share', async () => {
  const g = new Graph();
  g.output('next', ema(g.input('old', 'float64', [1]), g.input('new', 'float64', [1]), 0.9));
  const session = await openSession('ema', toOnnx(g));
  const { next } = await session.run({ old: vector64(10), new: vector64(20) });
  assert.ok(Math.abs(Number(next?.data[0]) - 11) < 1e-12);
  await session.close();
});

test('options out of range are all named at once', () => {
  const g = new Graph();
  const schedule = { step: g.input('step', 'float64', []), learningRate: g.input('rate', 'float32', []) };
  assert.throws(
    () => adamW(schedule, { beta1: 1, beta2: -1, epsilon: 0, weightDecay: -1 }),
    /optimiser\.beta1: 1 .*; optimiser\.beta2: -1 .*; optimiser\.epsilon: 0 .*; optimiser\.weightDecay: -1/,
  );
  assert.throws(() => adamW({ ...schedule, step: schedule.learningRate }), /adamW\.step: is float32/);
});
