import { invalidArgument } from '@plumb/kit/errors';
import * as ort from 'onnxruntime-node';
import { describeShape } from '../errors.ts';
import { elementArrays } from '../elements.ts';
import type { DType, TensorData } from '../graph.ts';
import { dtypeOf, holds, sizeOf } from '../graph.ts';

/** A tensor with its data, in row-major order. */
export interface TypedTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** `bool` is one byte an element. Memory may be shared between threads; it is then read without a copy. */
  readonly data: TensorData;
}

/** An array of zeros for a dtype; `shared` memory can be seen by other threads. */
export function allocate(dtype: DType, length: number, shared = false): TensorData {
  const Type = elementArrays[dtype] as unknown as new (source: number | SharedArrayBuffer) => TensorData;
  return shared
    ? new Type(new SharedArrayBuffer(length * elementArrays[dtype].BYTES_PER_ELEMENT))
    : new Type(length);
}

/**
 * The runtime's view of a tensor; memory is shared, not copied.
 * @param field what to call it in an error
 * @throws PlumbError INVALID_ARGUMENT when data, dtype and shape do not agree
 */
export function toRuntime(field: string, tensor: TypedTensor): ort.Tensor {
  const { dtype, shape, data } = tensor;
  if (dtype === 'bfloat16') {
    throw invalidArgument(
      field,
      'is bfloat16, which cannot be given to the runtime; cast it to float32 in the model',
    );
  }
  if (!holds(data, dtype)) throw invalidArgument(field, `is ${dtype}, but its data is ${dtypeOf(data)}`);
  if (data.length !== sizeOf(shape)) {
    throw invalidArgument(
      field,
      `has ${data.length} elements, but shape ${describeShape(shape)} needs ${sizeOf(shape)}`,
    );
  }
  // The declared constructor knows each pair of type and array separately; the pair was checked above.
  const Tensor = ort.Tensor as unknown as new (type: string, data: TensorData, dims: number[]) => ort.Tensor;
  return new Tensor(dtype, data, [...shape]);
}

/** The dtype of a runtime type name. */
export function dtypeOfRuntime(type: string): DType {
  if (!Object.hasOwn(elementArrays, type)) {
    throw invalidArgument(
      'model',
      `has a value of type ${type}; supported are ${Object.keys(elementArrays).join(', ')}`,
    );
  }
  return type as DType;
}
