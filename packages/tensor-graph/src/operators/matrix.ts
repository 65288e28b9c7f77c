import { describeShape, graphError } from '../errors.ts';
import type { Tensor } from '../graph.ts';
import { isFloat, sizeOf } from '../graph.ts';
import { broadcastShapes, extentAt, sameShape } from '../shape.ts';
import { permutationOf, reshape } from './layout.ts';
import { only } from './result.ts';

/** Whether `gemm` reads an operand transposed. */
export interface GemmOptions {
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
}

/**
 * Matrix product of two matrices plus an optional term: op(a) op(b) + c.
 * @param a [m, k], or [k, m] with transposeA
 * @param b [k, n], or [n, k] with transposeB
 * @param c broadcasts to [m, n]
 * @returns [m, n]
 */
export function gemm(a: Tensor, b: Tensor, c?: Tensor, options: GemmOptions = {}): Tensor {
  checkProduct('gemm', a, b);
  if (a.shape.length !== 2 || b.shape.length !== 2) {
    throw graphError(
      'gemm',
      'a',
      `${describeShape(a.shape)} and b ${describeShape(b.shape)} must be matrices`,
    );
  }
  const left = untransposed(a, options.transposeA ?? false);
  const right = untransposed(b, options.transposeB ?? false);
  const [m, k] = matrixShape(left.tensor, left.transposed);
  const [inner, n] = matrixShape(right.tensor, right.transposed);
  if (k !== inner) {
    throw graphError(
      'gemm',
      'b',
      `${describeShape(b.shape)}${options.transposeB ? ' transposed' : ''} has ${inner} rows, ` +
        `but a ${describeShape(a.shape)}${options.transposeA ? ' transposed' : ''} has ${k} columns`,
    );
  }
  const shape = [m, n];
  if (
    c !== undefined &&
    (c.dtype !== a.dtype || !sameShape(broadcastShapes('gemm', c.shape, shape), shape))
  ) {
    throw graphError(
      'gemm',
      'c',
      `${c.dtype} ${describeShape(c.shape)} does not broadcast to ${describeShape(shape)}`,
    );
  }
  return only(
    a.graph.apply(
      'Gemm',
      c === undefined ? [left.tensor, right.tensor] : [left.tensor, right.tensor, c],
      [{ dtype: a.dtype, shape }],
      { transA: left.transposed ? 1n : 0n, transB: right.transposed ? 1n : 0n },
    ),
  );
}

/**
 * Matrix product over the last two axes; leading axes broadcast.
 * @param a [..., m, k]
 * @param b [..., k, n]
 * @returns [..., m, n]
 */
export function matMul(a: Tensor, b: Tensor): Tensor {
  checkProduct('matMul', a, b);
  if (a.shape.length < 2 || b.shape.length < 2) {
    throw graphError(
      'matMul',
      'a',
      `${describeShape(a.shape)} and b ${describeShape(b.shape)} must have rank 2 or more`,
    );
  }
  const k = extentAt(a.shape, -1);
  if (k !== extentAt(b.shape, -2)) {
    throw graphError(
      'matMul',
      'b',
      `${describeShape(b.shape)} has ${extentAt(b.shape, -2)} rows, but a ${describeShape(a.shape)} has ${k} columns`,
    );
  }
  // One large product is several times faster than a batch of small ones that share the right operand.
  if (b.shape.length === 2) {
    const rows = reshape(a, [sizeOf(a.shape.slice(0, -1)), k]);
    return reshape(gemm(rows, b), [...a.shape.slice(0, -1), extentAt(b.shape, -1)]);
  }
  const left = untransposed(a, false);
  const right = untransposed(b, false);
  return batchedProduct(left.tensor, right.tensor, left.transposed, right.transposed);
}

/**
 * Batched product of op(a) and op(b), where op swaps the last two axes or does nothing. Written to ONNX as Transpose and
 * MatMul, which the runtime fuses into one kernel.
 */
export function batchedProduct(a: Tensor, b: Tensor, transposeA: boolean, transposeB: boolean): Tensor {
  const [m] = matrixShape(a, transposeA);
  const [, n] = matrixShape(b, transposeB);
  const batch = broadcastShapes('matMul', a.shape.slice(0, -2), b.shape.slice(0, -2));
  return only(
    a.graph.apply('BatchedProduct', [a, b], [{ dtype: a.dtype, shape: [...batch, m, n] }], {
      transposeA: transposeA ? 1n : 0n,
      transposeB: transposeB ? 1n : 0n,
    }),
  );
}

/**
 * A fully connected layer: x weight + bias over the last axis, as one matrix product whatever the leading axes.
 * @param x [..., inputs]
 * @param weight [inputs, outputs]
 * @param bias [outputs]
 * @returns [..., outputs]
 */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  checkProduct('linear', x, weight);
  const inputs = extentAt(x.shape, -1);
  if (weight.shape.length !== 2 || weight.shape[0] !== inputs) {
    throw graphError(
      'linear',
      'weight',
      `${describeShape(weight.shape)} must be [inputs, outputs] with inputs ${inputs}, the last axis of x ` +
        describeShape(x.shape),
    );
  }
  const outputs = extentAt(weight.shape, 1);
  if (bias !== undefined && !sameShape(bias.shape, [outputs])) {
    throw graphError('linear', 'bias', `${describeShape(bias.shape)} must be [${outputs}]`);
  }
  const rows = reshape(x, [sizeOf(x.shape.slice(0, -1)), inputs]);
  return reshape(gemm(rows, weight, bias), [...x.shape.slice(0, -1), outputs]);
}

function checkProduct(operator: string, a: Tensor, b: Tensor): void {
  if (!isFloat(a.dtype) || a.dtype !== b.dtype) {
    throw graphError(operator, 'b', `is ${b.dtype} and a is ${a.dtype}; both must have one float dtype`);
  }
}

/** Rows and columns of op(x). */
function matrixShape(x: Tensor, transposed: boolean): [number, number] {
  const rows = extentAt(x.shape, -2);
  const columns = extentAt(x.shape, -1);
  return transposed ? [columns, rows] : [rows, columns];
}

/** Reads through a transposition of the last two axes, so that the product does it on the way. */
function untransposed(x: Tensor, transposed: boolean): { tensor: Tensor; transposed: boolean } {
  if (x.source.kind === 'node' && x.source.node.operator === 'Transpose') {
    const order = permutationOf(x);
    const rank = order.length;
    const swapsLast =
      order[rank - 1] === rank - 2 &&
      order[rank - 2] === rank - 1 &&
      order.slice(0, -2).every((axis, index) => axis === index);
    if (swapsLast) return { tensor: only(x.source.node.inputs), transposed: !transposed };
  }
  return { tensor: x, transposed };
}
