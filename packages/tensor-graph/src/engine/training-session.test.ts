import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { TrainingProgram } from '../index.ts';
import {
  add,
  buildTrainingStep,
  Graph,
  initialTrainingState,
  mul,
  reduceMean,
  reduceSum,
  square,
  sub,
} from '../index.ts';
import { randomBatch, randomParameters, smallProgram } from '../testing/small-network.ts';
import type { TrainingSession } from './training-session.ts';
import { openTrainingSession } from './training-session.ts';

const scalars = { learningRate: 0.01, emaDecay: 0.9 };

async function open(program: TrainingProgram, lanes: number): Promise<TrainingSession> {
  return openTrainingSession('small', program, initialTrainingState(program, randomParameters(program, 1)), {
    lanes,
  });
}

test('training lowers the loss, and reports metrics', async () => {
  const program = smallProgram();
  const session = await open(program, 1);
  const batch = randomBatch(8, 2);
  const start = await session.step(batch, scalars);
  let last = start;
  for (let step = 0; step < 50; step += 1) last = await session.step(batch, scalars);
  assert.deepEqual(Object.keys(start).toSorted(), ['error', 'gradientNorm', 'loss']);
  assert.ok((last['loss'] ?? 1) < 0.5 * (start['loss'] ?? 0), JSON.stringify({ start, last }));
  assert.equal(session.state().step, 51);
  await session.close();
});

test('one step is what plain arithmetic says', async () => {
  // loss = mean((w x - t)^2) over two samples of one number, built for micro-batches of one sample.
  const g = new Graph();
  const error = sub(mul(g.parameter('w', [1]), g.input('x', 'float32', [1])), g.input('t', 'float32', [1]));
  const program = buildTrainingStep({ graph: g, loss: reduceMean(square(error)), optimiser: { ema: true } });
  for (const lanes of [1, 2]) {
    const session = await openTrainingSession(
      'arithmetic',
      program,
      initialTrainingState(program, { w: Float32Array.of(2) }),
      { lanes },
    );
    const report = await session.step(
      {
        x: { dtype: 'float32', shape: [2], data: Float32Array.of(1, 3) },
        t: { dtype: 'float32', shape: [2], data: Float32Array.of(0, 1) },
      },
      { learningRate: 0.1, emaDecay: 0.75 },
    );
    // errors 2 and 5; gradient of the mean (2 2 1 + 2 5 3) / 2 = 17
    assert.equal(report['loss'], 14.5);
    assert.equal(report['gradientNorm'], 17);
    const { parameters, ema, firstMoment, secondMoment } = session.state();
    const close = (actual: number | undefined, expected: number): void => {
      assert.ok(Math.abs(Number(actual) - expected) < 1e-5 * Math.abs(expected), `${actual}, ${expected}`);
    };
    // The first step of Adam is the learning rate times the sign of the gradient.
    close(parameters['w']?.[0], 1.9);
    close(firstMoment['w']?.[0], 1.7);
    close(secondMoment['w']?.[0], 0.001 * 17 * 17);
    close(ema['w']?.[0], 2 - 0.25 * 0.1);
    await session.close();
  }
});

test('micro-batches and lanes change nothing but rounding', async () => {
  const program = smallProgram();
  const results: number[][] = [];
  for (const [lanes, samples] of [
    [1, 12],
    [2, 12],
    [3, 12],
  ] as const) {
    const session = await open(program, lanes);
    const reports = [];
    for (let step = 0; step < 3; step += 1)
      reports.push(await session.step(randomBatch(samples, step), scalars));
    results.push([
      ...reports.flatMap((report) => Object.values(report)),
      ...(session.state().parameters['w1'] ?? []),
    ]);
    await session.close();
  }
  const [one, ...others] = results;
  for (const other of others) {
    for (const [index, value] of other.entries()) {
      assert.ok(Math.abs(value - (one?.[index] ?? Number.NaN)) < 1e-5, `${index}: ${value}, ${one?.[index]}`);
    }
  }
});

test('the same steps give bit-identical states, resumed or not, on one lane or two', async () => {
  const program = smallProgram();
  for (const lanes of [1, 2]) {
    const [whole, first, second] = [
      await open(program, lanes),
      await open(program, lanes),
      await open(program, lanes),
    ];
    for (let step = 0; step < 6; step += 1) await whole.step(randomBatch(8, step), scalars);
    for (let step = 0; step < 3; step += 1) await first.step(randomBatch(8, step), scalars);
    second.restore(structuredClone(first.state()));
    for (let step = 3; step < 6; step += 1) await second.step(randomBatch(8, step), scalars);
    assert.deepEqual(second.state(), whole.state());
    await Promise.all([whole.close(), first.close(), second.close()]);
  }
});

test('a bad feed leaves the state as it was', async () => {
  const program = smallProgram();
  const session = await open(program, 1);
  const before = session.state();
  const batch = randomBatch(4, 1);
  const { x, ...withoutX } = batch;
  assert.ok(x !== undefined);
  const cases: [() => Promise<unknown>, RegExp][] = [
    [() => session.step(withoutX, scalars), /feeds\.x: is missing/],
    [() => session.step({ ...batch, y: x }, scalars), /feeds\.y: is no input of the training program/],
    [
      () => session.step({ ...batch, x: { ...x, shape: [2, 8] } }, scalars),
      /feeds\.x: is float32 \[2, 8\]; it must be float32 \[2, 4\]/,
    ],
    [
      () => session.step({ ...batch, ...randomBatch(3, 1) }, scalars),
      /a whole number of times as long on axis 0/,
    ],
    [
      () => session.step({ ...batch, target: randomBatch(6, 1)['target'] ?? x }, scalars),
      /feeds\.target: has 3 micro-batches, but x has 2/,
    ],
    [() => session.step(batch, { learningRate: -1, emaDecay: 0.9 }), /learningRate: -1 must not be negative/],
    [() => session.step(batch, { learningRate: 1 }), /emaDecay: undefined must be in \[0, 1\]/],
  ];
  for (const [step, message] of cases) await assert.rejects(step, { code: 'INVALID_ARGUMENT', message });
  assert.deepEqual(session.state(), before);
  await session.close();
});

test('mistakes in a program or a state are named', async () => {
  const program = smallProgram();
  assert.throws(() => initialTrainingState(program, {}), /parameters\.w1: is missing/);
  const state = initialTrainingState(program, randomParameters(program, 1));
  await assert.rejects(
    openTrainingSession('small', program, {
      ...state,
      firstMoment: { ...state.firstMoment, b2: new Float32Array(1) },
    }),
    /state\.firstMoment\.b2: has 1 elements; shape \[3\] needs 3/,
  );
  await assert.rejects(
    openTrainingSession('small', program, state, { lanes: 0 }),
    /lanes: 0 must be a positive integer/,
  );
  const g = new Graph();
  const [a, b] = [g.parameter('a', [1]), g.parameter('b', [1])];
  assert.throws(
    () => buildTrainingStep({ graph: g, loss: mul(a, b), parameters: [{ tensor: a }] }),
    /parameters\.b: is neither trained nor frozen/,
  );
  assert.throws(
    () => buildTrainingStep({ graph: g, loss: mul(a, g.filled(1, [2])) }),
    /is float32 \[2\]; a loss or metric/,
  );
});

for (const lanes of [1, 2]) {
  test(`what follows from parameters alone is made once a step, and hands its gradient on (${lanes} lanes)`, async () => {
    const graph = new Graph();
    const w = graph.parameter('w', [3]);
    const unread = graph.parameter('unread', [2]);
    const x = graph.input('x', 'float32', [1, 3]);
    // w is read by the micro-batch itself and through its square.
    const loss = reduceSum(mul(x, add(square(w), w)));
    const program = buildTrainingStep({ graph, loss, optimiser: { beta1: 0.9 } });
    assert.deepEqual(
      program.preparation?.tensors.map(({ shape }) => shape),
      [[3]],
    );
    assert.deepEqual(program.preparation?.reaches, ['w']);
    const values = { w: Float32Array.of(1, -2, 0.5), unread: new Float32Array(unread.shape[0] ?? 0) };
    const session = await openTrainingSession('t', program, initialTrainingState(program, values), { lanes });
    const batch = [1, 2, 3, 4, 5, 6, 0, 1, 0, -1, 2, 8];
    const { loss: found } = await session.step(
      { x: { dtype: 'float32', shape: [4, 3], data: Float32Array.from(batch) } },
      { learningRate: 0.1 },
    );
    const { firstMoment } = session.state();
    await session.close();
    const mean = [0, 1, 2].map((column) => {
      const column4 = [0, 1, 2, 3].map((row) => batch[3 * row + column] ?? 0);
      return column4.reduce((a, b) => a + b, 0) / 4;
    });
    const expected = [...values.w].map((value, column) => 0.1 * (mean[column] ?? 0) * (2 * value + 1));
    for (const [column, value] of expected.entries()) {
      assert.ok(
        Math.abs((firstMoment['w']?.[column] ?? Number.NaN) - value) < 1e-6,
        String(firstMoment['w']),
      );
    }
    assert.deepEqual([...(firstMoment['unread'] ?? [])], [0, 0]);
    const expectedLoss = [...values.w].reduce(
      (sum, value, column) => sum + (mean[column] ?? 0) * (value * value + value),
      0,
    );
    assert.ok(Math.abs((found ?? Number.NaN) - expectedLoss) < 1e-5);
  });
}
