import { open, readFile, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { invalidArgument } from '@plumb/kit/errors';
import {
  ModelProtoSchema,
  StringStringEntryProtoSchema,
  TensorProto_DataLocation,
} from '@plumb/proto/onnx/onnx_pb.js';
import { elementArrays, viewElements } from '../elements.ts';
import type { TensorData } from '../graph.ts';
import { readOnnxFile } from './model-file.ts';
import type { OnnxWeight } from './model-file.ts';

/** New values of a weight, from its old ones; of the same length. */
export type WeightChange = (values: Float32Array, shape: readonly number[]) => Float32Array;

/**
 * Writes an ONNX model again with some of its weights changed, in the dtypes that they have. Weights that do not change
 * stay in their files, which must lie beside the new model under the same names; those that do go to a file of their own,
 * `<model>.changed.data`.
 *
 * @param path the model
 * @param changes by the name of the initialiser
 * @param target where the new model goes; not `path`
 * @throws PlumbError as `readOnnxFile`, and INVALID_ARGUMENT for a name that is no weight, or one that is not of floats
 */
export async function changeWeights(
  path: string,
  changes: ReadonlyMap<string, WeightChange>,
  target: string,
): Promise<void> {
  const { weights } = await readOnnxFile(path);
  const model = fromBinary(ModelProtoSchema, await readFile(path));
  const location = `${basename(target)}.changed.data`;
  const handle = await open(join(dirname(target), location), 'wx');
  try {
    let offset = 0;
    for (const [name, change] of changes) {
      const weight = weights.get(name);
      const tensor = model.graph?.initializer.find((initialiser) => initialiser.name === name);
      if (weight === undefined || tensor === undefined) {
        throw invalidArgument(`changes.${name}`, `is no weight of ${path}`);
      }
      const bytes = elementsOf(path, name, weight, change(await valuesOf(path, name, weight), weight.shape));
      await handle.write(bytes, 0, bytes.length, offset);
      Object.assign(tensor, {
        rawData: new Uint8Array(),
        floatData: [],
        int32Data: [],
        dataLocation: TensorProto_DataLocation.EXTERNAL,
        externalData: Object.entries({ location, offset: String(offset), length: String(bytes.length) }).map(
          ([key, value]) => create(StringStringEntryProtoSchema, { key, value }),
        ),
      });
      offset += bytes.length;
    }
  } finally {
    await handle.close();
  }
  await writeFile(target, toBinary(ModelProtoSchema, model), { flag: 'wx' });
}

/** A weight's values in single precision. */
async function valuesOf(path: string, name: string, weight: OnnxWeight): Promise<Float32Array> {
  const { dtype } = weight;
  const data = weight.data ?? (await readPlace(weight));
  if (data instanceof Float32Array) return Float32Array.from(data);
  if (dtype === 'float16' && data instanceof Uint16Array) {
    return Float32Array.from(new Float16Array(data.buffer, data.byteOffset, data.length));
  }
  if (dtype === 'bfloat16' && data instanceof Uint16Array) {
    return new Float32Array(Uint32Array.from(data, (bits) => bits << 16).buffer);
  }
  throw invalidArgument(
    `changes.${name}`,
    `is ${dtype} in ${path}; weights of float32, float16 and bfloat16 change`,
  );
}

async function readPlace({ dtype, place }: OnnxWeight): Promise<TensorData> {
  if (place === undefined) throw new TypeError('the weight is not external');
  const handle = await open(join(place.folder, place.file));
  try {
    const bytes = new Uint8Array(place.length);
    let filled = 0;
    while (filled < bytes.length) {
      const { bytesRead } = await handle.read(bytes, filled, bytes.length - filled, place.offset + filled);
      if (bytesRead === 0) throw new TypeError(`${place.file} became shorter while it was read`);
      filled += bytesRead;
    }
    return viewElements(bytes, dtype, 0, bytes.length);
  } finally {
    await handle.close();
  }
}

/** Little-endian bytes of a weight in its dtype. */
function elementsOf(
  path: string,
  name: string,
  { dtype, shape }: OnnxWeight,
  values: Float32Array,
): Uint8Array {
  const length = shape.reduce((a, b) => a * b, 1);
  if (values.length !== length) {
    throw invalidArgument(
      `changes.${name}`,
      `has ${values.length} values; the weight of ${path} has ${length}`,
    );
  }
  if (dtype === 'float16') {
    const halves = Float16Array.from(values);
    return new Uint8Array(halves.buffer, halves.byteOffset, halves.byteLength);
  }
  if (dtype === 'bfloat16') {
    const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
    // To the nearest, ties to even: the lower half is rounded away.
    const halves = Uint16Array.from(bits, (value) => (value + 0x7fff + ((value >>> 16) & 1)) >>> 16);
    return new Uint8Array(halves.buffer);
  }
  const size = values.length * elementArrays.float32.BYTES_PER_ELEMENT;
  return new Uint8Array(values.buffer, values.byteOffset, size);
}
