import type { OptimiserOptions, Precision, TrainingProgram } from '../index.ts';
import { buildTrainingStep, gelu, Graph, layerNorm, linear, mul, reduceMean, square, sub } from '../index.ts';
import type { TypedTensor } from '../engine/typed-tensor.ts';
import { randomNumbers } from './finite-differences.ts';

/** A program that trains a network of two layers, for micro-batches of 2 samples of 4 numbers. */
export function smallProgram(
  optimiser: OptimiserOptions = { clipNorm: 1, ema: true, weightDecay: 0.01 },
  precision: Precision = 'float32',
): TrainingProgram {
  const g = new Graph();
  const x = g.input('x', 'float32', [2, 4]);
  const target = g.input('target', 'float32', [2, 3]);
  const weight = g.input('weight', 'float32', [1]);
  const hidden = gelu(
    linear(layerNorm(x, undefined, undefined), g.parameter('w1', [4, 8]), g.parameter('b1', [8])),
  );
  const result = linear(hidden, g.parameter('w2', [8, 3]), g.parameter('b2', [3]));
  const error = reduceMean(square(sub(result, target)));
  return buildTrainingStep({ graph: g, loss: mul(error, weight), metrics: { error }, optimiser, precision });
}

/** Values for the parameters of a program. */
export function randomParameters(program: TrainingProgram, seed: number): Record<string, Float32Array> {
  const random = randomNumbers(seed);
  return Object.fromEntries(
    program.parameters.map(({ name, shape }) => [
      name,
      Float32Array.from({ length: shape.reduce((product, n) => product * n, 1) }, random),
    ]),
  );
}

/** A batch of some samples for `smallProgram`. */
export function randomBatch(samples: number, seed: number): Record<string, TypedTensor> {
  const random = randomNumbers(seed);
  const floats = (shape: number[]): TypedTensor => ({
    dtype: 'float32',
    shape,
    data: Float32Array.from({ length: shape.reduce((product, n) => product * n, 1) }, random),
  });
  return {
    x: floats([samples, 4]),
    target: floats([samples, 3]),
    weight: { dtype: 'float32', shape: [1], data: Float32Array.of(1) },
  };
}
