import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, readFile, realpath, stat } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { fromBinary } from '@bufbuild/protobuf';
import { dataLoss, invalidArgument, notFound, PlumbError } from '@plumb/kit/errors';
import type { GraphProto, NodeProto, TensorProto } from '@plumb/proto/onnx/onnx_pb.js';
import { ModelProtoSchema, TensorProto_DataLocation } from '@plumb/proto/onnx/onnx_pb.js';
import { elementArrays, viewElements } from '../elements.ts';
import type { DType, ExternalPlace, TensorData } from '../graph.ts';
import { sizeOf } from '../graph.ts';
import { ONNX_DTYPES } from '../operators/layout.ts';

/** Operator sets that models may be written for. Before 13, softmax, squeeze and sums meant something else. */
export const OLDEST_OPSET = 13;
export const NEWEST_OPSET = 23;

/** External tensors of integers up to this many bytes are read, so that shapes can be worked out from them. */
const READ_INTEGERS = 2 ** 20;

/** protobuf messages end at 2 GiB. */
const LARGEST_MESSAGE = 2 ** 31 - 1;

/** An initialiser: its values, or where they lie. */
export type OnnxWeight = { readonly dtype: DType; readonly shape: readonly number[] } & (
  | { readonly data: TensorData; readonly place?: never }
  | { readonly place: ExternalPlace; readonly data?: never }
);

/** A model as it was read. */
export interface OnnxFile {
  /** As the caller named it; starts every error about the model. */
  readonly path: string;
  readonly graph: GraphProto;
  readonly opset: number;
  readonly weights: ReadonlyMap<string, OnnxWeight>;
  /** Every file that the model is made of, relative to its folder, the model itself first. */
  readonly files: readonly string[];
}

/** How a model file is read. */
export interface OnnxFileOptions {
  /**
   * SHA-256 in lower-case hexadecimal of every file that the model is made of, by path relative to its folder. Not
   * checked unless given.
   */
  readonly hashes?: Readonly<Record<string, string>>;
}

const DTYPES: ReadonlyMap<number, DType> = new Map(
  Object.entries(ONNX_DTYPES).map(([dtype, number]) => [number, dtype as DType]),
);

/** The dtype of an ONNX element type; undefined for one that tensor-graph does not have. */
export function dtypeOfElement(elementType: number): DType | undefined {
  return DTYPES.get(elementType);
}

/**
 * Reads an ONNX model. External data stays where it is; that it is there, long enough and unaltered is checked here.
 *
 * @throws PlumbError naming the file: NOT_FOUND for a file that is not there; DATA_LOSS for one that is cut off, altered
 *   or no ONNX model; INVALID_ARGUMENT for an operator set, domain or element type that is not supported, or external data
 *   outside of the model's folder
 */
export async function readOnnxFile(path: string, options: OnnxFileOptions = {}): Promise<OnnxFile> {
  const absolute = resolve(path);
  const folder = await existing(dirname(absolute), path);
  const size = await sizeOfFile(absolute, path);
  if (size > LARGEST_MESSAGE) {
    throw dataLoss(
      `${path} has ${size} bytes, but ONNX models end at 2 GiB; export it again with external data`,
      { reason: 'MODEL_CORRUPT' },
    );
  }
  const bytes = await readFile(absolute);
  const model = ((): { graph: GraphProto; opsets: { domain: string; version: bigint }[] } => {
    try {
      const { graph, opsetImport, functions } = fromBinary(ModelProtoSchema, bytes);
      if (graph === undefined) throw new TypeError('it has no graph');
      if (functions.length > 0) {
        throw invalidArgument(
          'model',
          `${path} has functions of its own (${functions[0]?.name}); export it with them inlined (torch.onnx.export does, with optimize=True)`,
        );
      }
      return { graph, opsets: opsetImport };
    } catch (error) {
      if (error instanceof PlumbError) throw error;
      throw dataLoss(
        `${path} is not an ONNX model: ${error instanceof Error ? error.message : String(error)}`,
        {
          reason: 'MODEL_CORRUPT',
          cause: error,
        },
      );
    }
  })();
  const opset = Number(model.opsets.find(({ domain }) => isStandard(domain))?.version ?? 0n);
  if (opset < OLDEST_OPSET || opset > NEWEST_OPSET) {
    throw invalidArgument(
      'model',
      `${path} is written for ONNX operator set ${opset}; ${OLDEST_OPSET} to ${NEWEST_OPSET} can be read: export it again, for example with opset_version=20`,
    );
  }
  const foreign = model.graph.node.find(({ domain }) => !isStandard(domain));
  if (foreign !== undefined) {
    throw invalidArgument(
      'model',
      `${path}: node ${nameOfNode(foreign)} is operator ${foreign.opType} of domain ${foreign.domain}; only operators of ONNX itself can be read`,
    );
  }
  const files = new Map<string, number>([[basename(absolute), size]]);
  const weights = new Map<string, OnnxWeight>();
  for (const tensor of model.graph.initializer) {
    weights.set(tensor.name, await readInitialiser(path, folder, tensor, files));
  }
  if (model.graph.sparseInitializer.length > 0) {
    throw invalidArgument('model', `${path} has sparse initialisers; export it with dense ones`);
  }
  if (options.hashes !== undefined) await checkHashes(path, folder, [...files.keys()], options.hashes);
  return { path, graph: model.graph, opset, weights, files: [...files.keys()] };
}

/** SHA-256 of a file in lower-case hexadecimal, read in pieces. */
export async function hashFile(path: string, algorithm: 'sha256' | 'sha1' = 'sha256'): Promise<string> {
  const hash = createHash(algorithm);
  for await (const piece of createReadStream(path)) hash.update(piece as Uint8Array);
  return hash.digest('hex');
}

/** How a node is called in errors: its name, or what it makes where it has none. */
export function nameOfNode(node: NodeProto): string {
  return node.name === '' ? `making ${node.output[0] ?? 'nothing'}` : node.name;
}

/** Values of a TensorProto that are in the message; `where` starts its errors. */
export function readTensor(where: string, tensor: TensorProto): OnnxWeight & { readonly data: TensorData } {
  const { dtype, shape } = typeOf(where, tensor);
  const length = sizeOf(shape);
  const { rawData } = tensor;
  const data = ((): TensorData => {
    if (rawData.length > 0 || length === 0) return viewElements(rawData, dtype, 0, rawData.length);
    switch (dtype) {
      case 'float32':
        return Float32Array.from(tensor.floatData);
      case 'float64':
        return Float64Array.from(tensor.doubleData);
      case 'int64':
        return BigInt64Array.from(tensor.int64Data);
      case 'int32':
        return Int32Array.from(tensor.int32Data);
      case 'float16':
      case 'bfloat16':
        return Uint16Array.from(tensor.int32Data);
      case 'bool':
        return Uint8Array.from(tensor.int32Data);
    }
  })();
  if (data.length !== length) {
    throw dataLoss(`${where} has ${data.length} elements, but shape [${shape.join(', ')}] needs ${length}`, {
      reason: 'MODEL_CORRUPT',
    });
  }
  return { dtype, shape, data };
}

function isStandard(domain: string): boolean {
  return domain === '' || domain === 'ai.onnx';
}

function typeOf(where: string, tensor: TensorProto): { dtype: DType; shape: number[] } {
  const dtype = dtypeOfElement(tensor.dataType);
  if (dtype === undefined) {
    throw invalidArgument(
      'model',
      `${where} has ONNX element type ${tensor.dataType}; supported are ${Object.keys(ONNX_DTYPES).join(', ')}`,
    );
  }
  return { dtype, shape: tensor.dims.map(Number) };
}

async function readInitialiser(
  path: string,
  folder: string,
  tensor: TensorProto,
  files: Map<string, number>,
): Promise<OnnxWeight> {
  const where = `${path}: initialiser ${tensor.name}`;
  if (tensor.dataLocation !== TensorProto_DataLocation.EXTERNAL) return readTensor(where, tensor);
  const { dtype, shape } = typeOf(where, tensor);
  const entries = new Map(tensor.externalData.map(({ key, value }) => [key, value]));
  const location = entries.get('location') ?? '';
  if (location === '' || isAbsolute(location) || location.split(/[/\\]/).includes('..')) {
    throw invalidArgument(
      'model',
      `${where} lies in ${JSON.stringify(location)}; external data must lie in the model's folder or below`,
    );
  }
  const file = join(folder, location);
  let size = files.get(location);
  if (size === undefined) {
    const real = await existing(file, `${path}: external data ${location}`);
    // Links within the folder are fine; what they lead to is not the model's to name.
    if (relative(folder, real).split(sep)[0] === '..') {
      throw invalidArgument(
        'model',
        `${where} lies in ${location}, which is a link out of the model's folder`,
      );
    }
    size = await sizeOfFile(file, `${path}: external data ${location}`);
    files.set(location, size);
    const checksum = entries.get('checksum');
    if (checksum !== undefined && (await hashFile(file, 'sha1')) !== checksum.toLowerCase()) {
      throw altered(`${path}: external data ${location}`, `SHA-1 ${checksum}`);
    }
  }
  const offset = Number(entries.get('offset') ?? 0);
  const needed = sizeOf(shape) * elementArrays[dtype].BYTES_PER_ELEMENT;
  const length = Number(entries.get('length') ?? needed);
  if (!Number.isSafeInteger(offset) || offset < 0 || length !== needed || offset + length > size) {
    throw dataLoss(
      `${where} is said to lie at bytes ${offset} to ${offset + length} of ${location}, which has ${size}; ` +
        `${dtype} [${shape.join(', ')}] needs ${needed}: the file is cut off, or is another model's`,
      { reason: 'MODEL_CORRUPT' },
    );
  }
  if ((dtype === 'int32' || dtype === 'int64' || dtype === 'bool') && length <= READ_INTEGERS) {
    return { dtype, shape, data: viewElements(await readPart(file, offset, length), dtype, 0, length) };
  }
  return { dtype, shape, place: { folder, file: location, offset, length } };
}

async function readPart(file: string, offset: number, length: number): Promise<Uint8Array> {
  const handle = await open(file);
  try {
    const bytes = new Uint8Array(length);
    await handle.read(bytes, 0, length, offset);
    return bytes;
  } finally {
    await handle.close();
  }
}

async function checkHashes(
  path: string,
  folder: string,
  files: readonly string[],
  hashes: Readonly<Record<string, string>>,
): Promise<void> {
  for (const file of files) {
    const expected = hashes[file];
    if (expected === undefined) {
      throw invalidArgument(`hashes.${file}`, `is missing; ${path} is made of ${files.join(', ')}`);
    }
    if ((await hashFile(join(folder, file))) !== expected) {
      throw altered(`${path}: ${file}`, `SHA-256 ${expected}`);
    }
  }
}

function altered(what: string, hash: string): PlumbError {
  return dataLoss(
    `${what} is not the file that it should be: it has another hash than ${hash}; get it again`,
    {
      reason: 'MODEL_CORRUPT',
    },
  );
}

async function existing(path: string, what: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw PlumbError.from(cause);
    throw notFound('file', what, {
      fix: 'put all files of the model into its folder',
      reason: 'FILE_NOT_FOUND',
    });
  }
}

async function sizeOfFile(path: string, what: string): Promise<number> {
  await existing(path, what);
  return (await stat(path)).size;
}
