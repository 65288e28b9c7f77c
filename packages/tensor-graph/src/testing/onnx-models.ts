import { create, toBinary } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import {
  AttributeProto_AttributeType,
  ModelProtoSchema,
  NodeProtoSchema,
  TensorProto_DataLocation,
  TensorProtoSchema,
  TensorShapeProto_DimensionSchema,
  ValueInfoProtoSchema,
} from '@plumb/proto/onnx/onnx_pb.js';
import type { AttributeProtoSchema, ValueInfoProto } from '@plumb/proto/onnx/onnx_pb.js';
import type { TypedTensor } from '../engine/typed-tensor.ts';
import type { DType } from '../graph.ts';
import { ONNX_DTYPES } from '../operators/layout.ts';

/** An input of a model: an extent that is a string is a symbolic dimension, one that is empty has no name. */
export interface InputSpec {
  readonly dtype: DType;
  readonly shape: readonly (number | string)[];
}

/** A model for tests, written with the messages of ONNX and nothing of ours. */
export interface ModelSpec {
  readonly opset?: number;
  readonly inputs: Readonly<Record<string, InputSpec>>;
  readonly initialisers?: Readonly<Record<string, TypedTensor>>;
  /** More initialisers, as messages. */
  readonly tensors?: readonly MessageInitShape<typeof TensorProtoSchema>[];
  readonly nodes: readonly MessageInitShape<typeof NodeProtoSchema>[];
  readonly outputs: readonly string[];
}

/** Bytes of a ModelProto. */
export function onnxModel(spec: ModelSpec): Uint8Array {
  const initialisers = Object.entries(spec.initialisers ?? {}).map(([name, { dtype, shape, data }]) =>
    create(TensorProtoSchema, {
      name,
      dims: shape.map(BigInt),
      dataType: ONNX_DTYPES[dtype],
      rawData: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    }),
  );
  return toBinary(
    ModelProtoSchema,
    create(ModelProtoSchema, {
      irVersion: 10n,
      opsetImport: [{ domain: '', version: BigInt(spec.opset ?? 20) }],
      graph: {
        name: 'test',
        node: spec.nodes.map((node) => create(NodeProtoSchema, node)),
        initializer: [
          ...initialisers,
          ...(spec.tensors ?? []).map((tensor) => create(TensorProtoSchema, tensor)),
        ],
        input: Object.entries(spec.inputs).map(([name, input]) => inputInfo(name, input)),
        output: spec.outputs.map((name) => create(ValueInfoProtoSchema, { name })),
      },
    }),
  );
}

function inputInfo(name: string, { dtype, shape }: InputSpec): ValueInfoProto {
  const dim = shape.map((extent) => {
    if (extent === '') return create(TensorShapeProto_DimensionSchema, {});
    return create(TensorShapeProto_DimensionSchema, {
      value:
        typeof extent === 'number'
          ? { case: 'dimValue', value: BigInt(extent) }
          : { case: 'dimParam', value: extent },
    });
  });
  return create(ValueInfoProtoSchema, {
    name,
    type: { value: { case: 'tensorType', value: { elemType: ONNX_DTYPES[dtype], shape: { dim } } } },
  });
}

/** Attributes of a node from plain values: bigint is INT, number FLOAT, string STRING, lists INTS. */
export function attributes(
  values: Readonly<Record<string, bigint | number | string | readonly number[]>>,
): MessageInitShape<typeof AttributeProtoSchema>[] {
  return Object.entries(values).map(([name, value]) => {
    if (typeof value === 'bigint') return { name, type: AttributeProto_AttributeType.INT, i: value };
    if (typeof value === 'number') return { name, type: AttributeProto_AttributeType.FLOAT, f: value };
    if (typeof value === 'string') {
      return { name, type: AttributeProto_AttributeType.STRING, s: new TextEncoder().encode(value) };
    }
    return { name, type: AttributeProto_AttributeType.INTS, ints: value.map(BigInt) };
  });
}

/** A float32 initialiser that lies in another file. */
export function externalTensor(
  name: string,
  shape: readonly number[],
  place: Readonly<Record<string, string>>,
): MessageInitShape<typeof TensorProtoSchema> {
  return {
    name,
    dims: shape.map(BigInt),
    dataType: ONNX_DTYPES.float32,
    dataLocation: TensorProto_DataLocation.EXTERNAL,
    externalData: Object.entries(place).map(([key, value]) => ({ key, value })),
  };
}
