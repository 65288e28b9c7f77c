import type { TypedTensor } from '@plumb/tensor-graph/engine';
import { GRADIENT_LIMIT, relativeError } from './relative-error.ts';

/** One tensor of a case against PyTorch's. */
export interface Comparison {
  /** Heading in the table of errors. */
  readonly group: string;
  /** What was compared: `gradient.x`. */
  readonly role: string;
  readonly error: number;
  readonly limit: number;
}

/** The relative error of a tensor; infinite where it is missing or of another shape. */
export function compare(
  group: string,
  role: string,
  actual: TypedTensor | undefined,
  expected: TypedTensor,
  limit = GRADIENT_LIMIT,
): Comparison {
  const shapes = actual !== undefined && actual.shape.join() === expected.shape.join();
  const error = shapes ? relativeError(numbersOf(actual), numbersOf(expected)) : Infinity;
  return { group, role, error, limit };
}

/** The elements as numbers. */
export function numbersOf(tensor: TypedTensor): Float64Array {
  return Float64Array.from(tensor.data as ArrayLike<number>, Number);
}

/** A float32 tensor. */
export const float32 = (shape: readonly number[], data: Float32Array): TypedTensor => ({
  dtype: 'float32',
  shape,
  data,
});
