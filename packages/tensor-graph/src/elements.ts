import type { DType, TensorData } from './graph.ts';

/** The typed array of each dtype. */
export const elementArrays: Readonly<
  Record<
    DType,
    {
      new (length: number): TensorData;
      new (buffer: ArrayBuffer, offset: number, length: number): TensorData;
      readonly BYTES_PER_ELEMENT: number;
    }
  >
> = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  bool: Uint8Array,
};

/**
 * Little-endian bytes as elements: a view of the same memory where it is aligned, a copy otherwise.
 * @param length in bytes
 */
export function viewElements(bytes: Uint8Array, dtype: DType, start: number, length: number): TensorData {
  const Type = elementArrays[dtype];
  const elements = length / Type.BYTES_PER_ELEMENT;
  const offset = bytes.byteOffset + start;
  if (offset % Type.BYTES_PER_ELEMENT === 0 && bytes.buffer instanceof ArrayBuffer) {
    return new Type(bytes.buffer, offset, elements);
  }
  return new Type(Uint8Array.from(bytes.subarray(start, start + length)).buffer, 0, elements);
}
