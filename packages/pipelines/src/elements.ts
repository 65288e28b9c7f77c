import type { TypedTensor } from '@plumb/tensor-graph/engine';
import type { GraphValue } from './pipeline-folder.ts';

/** Numbers as the dtype that a graph takes. Half precision rounds to nearest. */
export function toElements(
  dtype: GraphValue['dtype'],
  shape: readonly number[],
  values: Float32Array | readonly number[],
): TypedTensor {
  switch (dtype) {
    case 'float32':
      return { dtype, shape, data: values instanceof Float32Array ? values : Float32Array.from(values) };
    case 'float16':
      return { dtype, shape, data: new Uint16Array(Float16Array.from(values).buffer) };
    case 'int64':
      return { dtype, shape, data: BigInt64Array.from(values as ArrayLike<number>, BigInt) };
    case 'int32':
      return { dtype, shape, data: Int32Array.from(values) };
  }
}

/** A graph's floating-point output in single precision. */
export function toFloats(name: string, tensor: TypedTensor | undefined): Float32Array {
  const data = tensor?.data;
  if (data instanceof Float32Array) return data;
  if (tensor?.dtype === 'float16' && data instanceof Uint16Array) {
    return Float32Array.from(new Float16Array(data.buffer, data.byteOffset, data.length));
  }
  throw new TypeError(`the graph gave no floating-point output ${name}`);
}
