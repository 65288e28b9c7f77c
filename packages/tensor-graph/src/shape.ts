import { describeShape, graphError } from './errors.ts';

/**
 * The shape that two shapes broadcast to, by the rule of NumPy and ONNX: aligned at the last axis, extents equal or 1.
 * @throws PlumbError naming the operator and both shapes
 */
export function broadcastShapes(operator: string, a: readonly number[], b: readonly number[]): number[] {
  const rank = Math.max(a.length, b.length);
  const result: number[] = [];
  for (let axis = 0; axis < rank; axis += 1) {
    const left = a[axis - rank + a.length] ?? 1;
    const right = b[axis - rank + b.length] ?? 1;
    if (left !== right && left !== 1 && right !== 1) {
      throw graphError(
        operator,
        'b',
        `shapes ${describeShape(a)} and ${describeShape(b)} do not broadcast: ` +
          `axis ${axis - rank} is ${left} and ${right}`,
      );
    }
    result.push(left === 1 ? right : left);
  }
  return result;
}

/** Whether two shapes are the same. */
export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((extent, axis) => extent === b[axis]);
}

/** An axis in 0..rank-1, from one that may count from the end. */
export function normaliseAxis(operator: string, axis: number, rank: number, argument = 'axis'): number {
  if (!Number.isInteger(axis) || axis < -rank || axis >= rank) {
    throw graphError(
      operator,
      argument,
      `${axis} is outside [${-rank}, ${rank - 1}] for a tensor of rank ${rank}`,
    );
  }
  return axis < 0 ? axis + rank : axis;
}

/** Distinct axes in rising order; all axes when none are given. */
export function normaliseAxes(operator: string, axes: readonly number[] | undefined, rank: number): number[] {
  if (axes === undefined) return Array.from({ length: rank }, (_, axis) => axis);
  const normal = axes.map((axis) => normaliseAxis(operator, axis, rank, 'axes'));
  if (new Set(normal).size !== normal.length) {
    throw graphError(operator, 'axes', `${describeShape(axes)} names an axis twice`);
  }
  return normal.toSorted((a, b) => a - b);
}

/** Extent of an axis that is known to exist. */
export function extentAt(shape: readonly number[], axis: number): number {
  const extent = shape.at(axis);
  if (extent === undefined) throw graphError('shape', 'axis', `${axis} is not in ${describeShape(shape)}`);
  return extent;
}
