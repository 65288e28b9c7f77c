import { graphError } from '../errors.ts';
import type { Tensor } from '../graph.ts';
import { isFloat } from '../graph.ts';
import { normaliseAxes, normaliseAxis } from '../shape.ts';
import { only } from './result.ts';

/** Which axes to reduce: all of them unless given. `keepDims` leaves them with extent 1; false unless given. */
export interface ReductionOptions {
  readonly axes?: readonly number[];
  readonly keepDims?: boolean;
}

function reduce(operator: string, name: string, x: Tensor, options: ReductionOptions): Tensor {
  const axes = normaliseAxes(name, options.axes, x.shape.length);
  const keep = options.keepDims ?? false;
  if (axes.length === 0) return x;
  if (!isFloat(x.dtype)) throw graphError(name, 'x', `is ${x.dtype}; cast it to a float dtype`);
  const reduced = new Set(axes);
  const shape = keep
    ? x.shape.map((extent, axis) => (reduced.has(axis) ? 1 : extent))
    : x.shape.filter((_, axis) => !reduced.has(axis));
  return only(
    x.graph.apply(operator, [x, x.graph.integers(axes)], [{ dtype: x.dtype, shape }], {
      keepdims: keep ? 1n : 0n,
      _axes: axes.map((axis) => BigInt(axis)),
    }),
  );
}

/** Sum over axes. */
export function reduceSum(x: Tensor, options: ReductionOptions = {}): Tensor {
  return reduce('ReduceSum', 'reduceSum', x, options);
}

/** Mean over axes. */
export function reduceMean(x: Tensor, options: ReductionOptions = {}): Tensor {
  return reduce('ReduceMean', 'reduceMean', x, options);
}

/** Largest element over axes. The gradient is shared evenly between equal maxima. */
export function reduceMax(x: Tensor, options: ReductionOptions = {}): Tensor {
  return reduce('ReduceMax', 'reduceMax', x, options);
}

/** Smallest element over axes. The gradient is shared evenly between equal minima. */
export function reduceMin(x: Tensor, options: ReductionOptions = {}): Tensor {
  return reduce('ReduceMin', 'reduceMin', x, options);
}

/** Exponentials along an axis, divided by their sum. */
export function softmax(x: Tensor, axis = -1): Tensor {
  return alongAxis('Softmax', 'softmax', x, axis);
}

/** Logarithm of softmax, without overflow. */
export function logSoftmax(x: Tensor, axis = -1): Tensor {
  return alongAxis('LogSoftmax', 'logSoftmax', x, axis);
}

function alongAxis(operator: string, name: string, x: Tensor, axis: number): Tensor {
  if (!isFloat(x.dtype)) throw graphError(name, 'x', `is ${x.dtype}; ${name} takes a float dtype`);
  const at = normaliseAxis(name, axis, x.shape.length);
  return only(x.graph.apply(operator, [x], [{ dtype: x.dtype, shape: x.shape }], { axis: BigInt(at) }));
}
