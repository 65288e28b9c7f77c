import assert from 'node:assert/strict';
import { openSession } from '../engine/session.ts';
import type { TypedTensor } from '../engine/typed-tensor.ts';
import type { Tensor } from '../graph.ts';
import { dataOf, Graph, sizeOf } from '../graph.ts';
import { gradients } from '../gradients.ts';
import { toOnnx } from '../onnx.ts';
import { mul } from '../operators/elementwise.ts';
import { reduceSum } from '../operators/reduction.ts';

/** Numbers in [-1, 1] from a seed, the same every time (a linear congruential generator of Numerical Recipes). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}

/** A function to check: its result may have any shape; its inputs have the given shapes. */
export interface DifferentiableCase {
  readonly shapes: readonly (readonly number[])[];
  readonly build: (inputs: readonly Tensor[], graph: Graph) => Tensor;
  /** float64 unless the runtime has no such kernel. */
  readonly dtype?: 'float32' | 'float64';
  /** Maps a number in [-1, 1] to where the function is smooth; the identity times 2 unless given. */
  readonly domain?: (value: number) => number;
}

/**
 * Asserts that every element of every gradient is what central differences say. The function's result is reduced to a
 * scalar by a random weighting, so that no element can hide behind another.
 */
export async function assertGradients(given: DifferentiableCase, seed: number): Promise<void> {
  const dtype = given.dtype ?? 'float64';
  const domain = given.domain ?? ((value) => 2 * value);
  const random = randomNumbers(seed);
  const graph = new Graph();
  const inputs = given.shapes.map((shape, index) => graph.input(`x${index}`, dtype, shape));
  const result = given.build(inputs, graph);
  const weights = dataOf(dtype, Array.from({ length: sizeOf(result.shape) }, random));
  const loss = reduceSum(mul(result, graph.constant(weights, result.shape)));
  graph.output('loss', loss);
  const found = gradients(loss, inputs);
  for (const [index, gradient] of found.entries()) {
    assert.deepEqual(gradient.shape, given.shapes[index], 'a gradient has the shape of its input');
    graph.output(`gradient${index}`, gradient);
  }
  const live = await openSession('gradients', toOnnx(graph), { intraOpThreads: 1 });
  const names = new Set(live.inputs.map((spec) => spec.name));
  const feeds: Record<string, TypedTensor> = {};
  for (const [index, shape] of given.shapes.entries()) {
    const values = Array.from({ length: sizeOf(shape) }, () => domain(random()));
    if (names.has(`x${index}`)) feeds[`x${index}`] = { dtype, shape, data: dataOf(dtype, values) };
  }
  try {
    const analytic = await live.run(feeds);
    // Cube root of the machine epsilon balances rounding against truncation, both of which the tolerance covers.
    const [step, tolerance] = dtype === 'float64' ? [1e-5, 1e-6] : [1e-2, 3e-3];
    const lossAt = async (): Promise<number> => Number((await live.run(feeds, ['loss']))['loss']?.data[0]);
    for (const index of given.shapes.keys()) {
      const data = feeds[`x${index}`]?.data;
      if (data === undefined) continue;
      for (const element of data.keys()) {
        const original = Number(data[element]);
        data[element] = original + step;
        const above = await lossAt();
        data[element] = original - step;
        const below = await lossAt();
        data[element] = original;
        const expected = (above - below) / (2 * step);
        const actual = Number(analytic[`gradient${index}`]?.data[element]);
        assert.ok(
          Math.abs(actual - expected) <= tolerance * Math.max(1, Math.abs(expected)),
          `input ${index}, element ${element}: gradient ${actual}, finite difference ${expected}`,
        );
      }
    }
  } finally {
    await live.close();
  }
}
