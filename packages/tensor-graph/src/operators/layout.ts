import { describeShape, graphError } from '../errors.ts';
import type { DType, Tensor } from '../graph.ts';
import { isFloat, sizeOf } from '../graph.ts';
import { broadcastShapes, extentAt, normaliseAxis, sameShape } from '../shape.ts';
import { only } from './result.ts';

/**
 * The same elements in another shape. One extent may be -1 and is then inferred.
 * @throws PlumbError when the numbers of elements differ
 */
export function reshape(x: Tensor, shape: readonly number[]): Tensor {
  const target = [...shape];
  const free = target.indexOf(-1);
  if (free >= 0) {
    const rest = sizeOf(target.filter((_, axis) => axis !== free));
    target[free] = rest === 0 ? 0 : sizeOf(x.shape) / rest;
  }
  if (
    target.some((extent) => !Number.isSafeInteger(extent) || extent < 0) ||
    sizeOf(target) !== sizeOf(x.shape)
  ) {
    throw graphError(
      'reshape',
      'shape',
      `${describeShape(shape)} does not hold the ${sizeOf(x.shape)} elements of ${describeShape(x.shape)}`,
    );
  }
  if (sameShape(target, x.shape)) return x;
  // Of a chain of reshapes only the last counts.
  if (x.source.kind === 'node' && x.source.node.operator === 'Reshape') {
    return reshape(only(x.source.node.inputs), target);
  }
  // ONNX reads an extent of 0 in a shape as "copy", unless allowzero is set.
  return only(
    x.graph.apply('Reshape', [x, x.graph.integers(target)], [{ dtype: x.dtype, shape: target }], {
      allowzero: 1n,
    }),
  );
}

/** Permutes axes: axis `i` of the result is axis `permutation[i]` of `x`. Reverses all axes when none is given. */
export function transpose(x: Tensor, permutation?: readonly number[]): Tensor {
  const rank = x.shape.length;
  const order = (permutation ?? x.shape.map((_, axis) => rank - 1 - axis)).map((axis) =>
    normaliseAxis('transpose', axis, rank, 'permutation'),
  );
  if (order.length !== rank || new Set(order).size !== rank) {
    throw graphError(
      'transpose',
      'permutation',
      `${describeShape(permutation ?? [])} is not a permutation of the ${rank} axes of ${describeShape(x.shape)}`,
    );
  }
  if (order.every((axis, index) => axis === index)) return x;
  if (x.source.kind === 'node' && x.source.node.operator === 'Transpose') {
    const inner = permutationOf(x);
    return transpose(
      only(x.source.node.inputs),
      order.map((axis) => inner[axis] ?? 0),
    );
  }
  const shape = order.map((axis) => extentAt(x.shape, axis));
  return only(
    x.graph.apply('Transpose', [x], [{ dtype: x.dtype, shape }], { perm: order.map((axis) => BigInt(axis)) }),
  );
}

/** The permutation of a tensor that `transpose` made. */
export function permutationOf(x: Tensor): number[] {
  const perm = x.source.kind === 'node' ? x.source.node.attributes['perm'] : undefined;
  return Array.isArray(perm) ? perm.map(Number) : [];
}

/** Swaps the last two axes. */
export function swapLastAxes(x: Tensor): Tensor {
  const rank = x.shape.length;
  const order = x.shape.map((_, axis) => axis);
  return transpose(x, [...order.slice(0, -2), rank - 1, rank - 2]);
}

/** Repeats along axes of extent 1 so that `x` has the given shape. */
export function expand(x: Tensor, shape: readonly number[]): Tensor {
  if (!sameShape(broadcastShapes('expand', x.shape, shape), shape)) {
    throw graphError(
      'expand',
      'shape',
      `${describeShape(x.shape)} does not expand to ${describeShape(shape)}`,
    );
  }
  if (sameShape(x.shape, shape)) return x;
  return only(x.graph.apply('Expand', [x, x.graph.integers(shape)], [{ dtype: x.dtype, shape }]));
}

/** Elements `start` (included) to `end` (excluded) of an axis, every `step`-th. Negative bounds count from the end. */
export function slice(x: Tensor, axis: number, start: number, end: number, step = 1): Tensor {
  const at = normaliseAxis('slice', axis, x.shape.length);
  const extent = extentAt(x.shape, at);
  const first = start < 0 ? start + extent : start;
  const last = end < 0 ? end + extent : end;
  if (!Number.isInteger(step) || step < 1)
    throw graphError('slice', 'step', `${step} must be a positive integer`);
  if (!(Number.isInteger(first) && Number.isInteger(last) && first >= 0 && first <= last && last <= extent)) {
    throw graphError(
      'slice',
      'start',
      `[${start}, ${end}) is not within axis ${axis} of ${describeShape(x.shape)}, extent ${extent}`,
    );
  }
  if (first === 0 && last === extent && step === 1) return x;
  const shape = x.shape.with(at, Math.ceil((last - first) / step));
  const g = x.graph;
  return only(
    g.apply(
      'Slice',
      [x, g.integers([first]), g.integers([last]), g.integers([at]), g.integers([step])],
      [{ dtype: x.dtype, shape }],
      // The writer drops attributes that start with an underscore: they are for the gradient rule.
      { _axis: BigInt(at), _start: BigInt(first), _end: BigInt(last), _step: BigInt(step) },
    ),
  );
}

/** Joins tensors along an axis; all other extents must agree. */
export function concat(tensors: readonly Tensor[], axis: number): Tensor {
  const [first, ...rest] = tensors;
  if (first === undefined) throw graphError('concat', 'tensors', 'is empty; give at least one tensor');
  const at = normaliseAxis('concat', axis, first.shape.length);
  let extent = extentAt(first.shape, at);
  for (const tensor of rest) {
    if (
      tensor.dtype !== first.dtype ||
      tensor.shape.length !== first.shape.length ||
      !sameShape(tensor.shape.with(at, 0), first.shape.with(at, 0))
    ) {
      throw graphError(
        'concat',
        'tensors',
        `${tensor.dtype} ${describeShape(tensor.shape)} does not join ${first.dtype} ${describeShape(first.shape)} ` +
          `along axis ${axis}: dtype and all other extents must agree`,
      );
    }
    extent += extentAt(tensor.shape, at);
  }
  if (rest.length === 0) return first;
  return only(
    first.graph.apply('Concat', [...tensors], [{ dtype: first.dtype, shape: first.shape.with(at, extent) }], {
      axis: BigInt(at),
    }),
  );
}

/** Cuts an axis into parts of the given sizes, which must add up to its extent. */
export function split(x: Tensor, axis: number, sizes: readonly number[]): Tensor[] {
  const at = normaliseAxis('split', axis, x.shape.length);
  const total = sizes.reduce((sum, size) => sum + size, 0);
  if (total !== extentAt(x.shape, at) || sizes.some((size) => !Number.isInteger(size) || size < 0)) {
    throw graphError(
      'split',
      'sizes',
      `${describeShape(sizes)} must be non-negative and add up to ${extentAt(x.shape, at)}, ` +
        `the extent of axis ${axis} of ${describeShape(x.shape)}`,
    );
  }
  if (sizes.length === 1) return [x];
  return x.graph.apply(
    'Split',
    [x, x.graph.integers(sizes)],
    sizes.map((size) => ({ dtype: x.dtype, shape: x.shape.with(at, size) })),
    { axis: BigInt(at) },
  );
}

/** Adds zeros: `before[i]` and `after[i]` of them on axis `i`. */
export function pad(x: Tensor, before: readonly number[], after: readonly number[]): Tensor {
  const rank = x.shape.length;
  if (
    before.length !== rank ||
    after.length !== rank ||
    [...before, ...after].some((n) => !(Number.isInteger(n) && n >= 0))
  ) {
    throw graphError('pad', 'before', `and after must hold ${rank} non-negative integers each`);
  }
  if ([...before, ...after].every((n) => n === 0)) return x;
  const shape = x.shape.map((extent, axis) => extent + (before[axis] ?? 0) + (after[axis] ?? 0));
  return only(
    x.graph.apply('Pad', [x, x.graph.integers([...before, ...after])], [{ dtype: x.dtype, shape }], {
      _before: before.map((n) => BigInt(n)),
    }),
  );
}

/**
 * Rows of an axis picked by index: the axis is replaced by the shape of `indices`.
 * @param indices int32 or int64, each within the axis; out of range fails at run time
 */
export function gather(x: Tensor, indices: Tensor, axis = 0): Tensor {
  const at = normaliseAxis('gather', axis, x.shape.length);
  if (indices.dtype !== 'int32' && indices.dtype !== 'int64') {
    throw graphError('gather', 'indices', `are ${indices.dtype}; use int32 or int64`);
  }
  const shape = [...x.shape.slice(0, at), ...indices.shape, ...x.shape.slice(at + 1)];
  return only(x.graph.apply('Gather', [x, indices], [{ dtype: x.dtype, shape }], { axis: BigInt(at) }));
}

/**
 * `base` with `updates` added at `indices` along an axis; an index may occur several times. All three have the same
 * rank, `indices` and `updates` the same shape. Additions happen in order, so the result is deterministic.
 */
export function scatterAdd(base: Tensor, indices: Tensor, updates: Tensor, axis = 0): Tensor {
  const at = normaliseAxis('scatterAdd', axis, base.shape.length);
  if (!sameShape(indices.shape, updates.shape) || indices.shape.length !== base.shape.length) {
    throw graphError(
      'scatterAdd',
      'indices',
      `${describeShape(indices.shape)} and updates ${describeShape(updates.shape)} must have one shape, of the rank of ` +
        describeShape(base.shape),
    );
  }
  return only(
    base.graph.apply(
      'ScatterElements',
      [base, indices, updates],
      [{ dtype: base.dtype, shape: base.shape }],
      {
        axis: BigInt(at),
        reduction: 'add',
      },
    ),
  );
}

/**
 * Elements or slices picked by coordinates: the last axis of `indices` holds coordinates of the first axes of `x`.
 * @param indices int64 [..., k], each within its axis; out of range fails at run time
 * @returns [...indices without the last axis, ...axes of `x` from k]
 */
export function gatherNd(x: Tensor, indices: Tensor): Tensor {
  const depth = coordinatesOf('gatherNd', x, indices);
  const shape = [...indices.shape.slice(0, -1), ...x.shape.slice(depth)];
  return only(x.graph.apply('GatherND', [x, indices], [{ dtype: x.dtype, shape }]));
}

/**
 * `base` with the slices at some coordinates replaced by `updates`, or with `updates` added to them.
 * @param indices int64 [..., k]; without `add`, no coordinates may occur twice
 * @param updates what `gatherNd` of the same indices has
 */
export function scatterNd(
  base: Tensor,
  indices: Tensor,
  updates: Tensor,
  options: { readonly add?: boolean } = {},
): Tensor {
  const depth = coordinatesOf('scatterNd', base, indices);
  const shape = [...indices.shape.slice(0, -1), ...base.shape.slice(depth)];
  if (!sameShape(updates.shape, shape) || updates.dtype !== base.dtype) {
    throw graphError(
      'scatterNd',
      'updates',
      `are ${updates.dtype} ${describeShape(updates.shape)}; they must be ${base.dtype} ${describeShape(shape)}`,
    );
  }
  return only(
    base.graph.apply('ScatterND', [base, indices, updates], [{ dtype: base.dtype, shape: base.shape }], {
      reduction: options.add === true ? 'add' : 'none',
    }),
  );
}

/** How many axes the coordinates of `gatherNd` and `scatterNd` name. */
function coordinatesOf(operator: string, x: Tensor, indices: Tensor): number {
  const depth = indices.shape.at(-1) ?? 0;
  if (indices.dtype !== 'int64' || depth < 1 || depth > x.shape.length) {
    throw graphError(
      operator,
      'indices',
      `are ${indices.dtype} ${describeShape(indices.shape)}; they must be int64, the last axis at most ${x.shape.length}`,
    );
  }
  return depth;
}

/** Converts elements; float to integer truncates towards zero. */
export function cast(x: Tensor, dtype: DType): Tensor {
  if (x.dtype === dtype) return x;
  return only(x.graph.apply('Cast', [x], [{ dtype, shape: x.shape }], { to: BigInt(ONNX_DTYPES[dtype]) }));
}

/** Values pass, gradients stop. */
export function stopGradient(x: Tensor): Tensor {
  if (!isFloat(x.dtype)) return x;
  return only(x.graph.apply('Identity', [x], [{ dtype: x.dtype, shape: x.shape }], { _stop: 1n }));
}

/** ONNX TensorProto.DataType numbers. */
export const ONNX_DTYPES: Readonly<Record<DType, number>> = {
  float32: 1,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  float64: 11,
  bfloat16: 16,
};
