import { create, toBinary } from '@bufbuild/protobuf';
import type { NodeProto } from '@plumb/proto/onnx/onnx_pb.js';
import { ModelProtoSchema, TensorProtoSchema, ValueInfoProtoSchema } from '@plumb/proto/onnx/onnx_pb.js';
import { evaluate } from '../engine/session.ts';
import type { TypedTensor } from '../engine/typed-tensor.ts';
import { sizeOf } from '../graph.ts';
import type { Tensor } from '../graph.ts';
import { ONNX_DTYPES } from '../operators/layout.ts';

/** Float vectors with more elements, and matrices, are left to the runtime, which folds them when it loads the model. */
const LARGEST_FLOATS = 64;

/** IR version 10 allows every operator set that can be read. */
const IR_VERSION = 10n;

/**
 * Whether a node is computed when the model is imported: shapes and what they are made of are, weights are not.
 * @param known whether there is a way to build the node; one that there is none for is computed whatever its size
 */
export function canFold(inputs: readonly (Tensor | undefined)[], known: boolean): boolean {
  return inputs.every((input) => {
    if (input === undefined) return true;
    if (input.source.kind !== 'constant') return false;
    if (!known || input.dtype === 'bool' || input.dtype.startsWith('int')) return true;
    return input.shape.length < 2 && sizeOf(input.shape) <= LARGEST_FLOATS;
  });
}

/** What a node makes of constants, by the runtime itself. */
export async function fold(
  node: NodeProto,
  inputs: readonly (Tensor | undefined)[],
  opset: number,
): Promise<Record<string, TypedTensor>> {
  const initializer = new Map(
    inputs.flatMap((input, index) => {
      const name = node.input[index] ?? '';
      if (input?.source.kind !== 'constant') return [];
      const { data } = input.source;
      return [
        [
          name,
          create(TensorProtoSchema, {
            name,
            dims: input.shape.map((extent) => BigInt(extent)),
            dataType: ONNX_DTYPES[input.dtype],
            rawData: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
          }),
        ] as const,
      ];
    }),
  );
  const model = create(ModelProtoSchema, {
    irVersion: IR_VERSION,
    opsetImport: [{ domain: '', version: BigInt(opset) }],
    graph: {
      name: 'constant',
      node: [node],
      initializer: [...initializer.values()],
      output: node.output.filter(Boolean).map((name) => create(ValueInfoProtoSchema, { name })),
    },
  });
  return evaluate(toBinary(ModelProtoSchema, model));
}
