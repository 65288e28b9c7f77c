/** Half precision at the edge of a model; everything that is computed here is in full. */

import type { TypedTensor } from '@plumb/tensor-graph/engine';

/** The values of a tensor of float32 or float16; undefined for another type or none. */
export function asFloat32(tensor: TypedTensor | undefined): Float32Array | undefined {
  if (tensor?.data instanceof Float32Array) return tensor.data;
  if (tensor?.dtype !== 'float16' || !(tensor.data instanceof Uint16Array)) return undefined;
  const { buffer, byteOffset, length } = tensor.data;
  return Float32Array.from(new Float16Array(buffer, byteOffset, length));
}
