import { dataLoss, invalidArgument } from '@plumb/kit/errors';
import type { TypedTensor } from './engine/typed-tensor.ts';
import { elementArrays, viewElements } from './elements.ts';
import type { DType } from './graph.ts';
import { dtypeOf, holds, sizeOf } from './graph.ts';

// The safetensors format (github.com/huggingface/safetensors, "Format"): eight bytes of little-endian header length, a
// JSON header that gives every tensor's dtype, shape and byte range, then the bytes of all tensors, without holes.

/** Names of the dtypes in the format. */
const NAMES: Readonly<Record<DType, string>> = {
  float32: 'F32',
  float64: 'F64',
  float16: 'F16',
  bfloat16: 'BF16',
  int32: 'I32',
  int64: 'I64',
  bool: 'BOOL',
};

const DTYPES: ReadonlyMap<string, DType> = new Map(
  Object.entries(NAMES).map(([dtype, name]) => [name, dtype as DType]),
);

/** The reference implementation refuses longer headers, so that a bad length cannot exhaust memory. */
const LARGEST_HEADER = 100_000_000;

/** Data starts at a multiple of this, so that every dtype can be viewed in place. */
const ALIGNMENT = 8;

/** A file's tensors by name, and its free text. */
export interface Safetensors {
  readonly tensors: Map<string, TypedTensor>;
  readonly metadata: Record<string, string>;
}

/**
 * Writes tensors in the safetensors format. Tensors are stored by falling element size, then by name, so that all are
 * aligned and equal contents give equal bytes.
 *
 * @param metadata free text by key, such as the configuration of a model as JSON
 * @throws PlumbError INVALID_ARGUMENT for a tensor whose data does not fit its dtype and shape, or the reserved name
 *   `__metadata__`
 */
export function writeSafetensors(
  tensors: ReadonlyMap<string, TypedTensor>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  const ordered = [...tensors].toSorted(
    ([nameA, a], [nameB, b]) =>
      elementArrays[b.dtype].BYTES_PER_ELEMENT - elementArrays[a.dtype].BYTES_PER_ELEMENT ||
      (nameA < nameB ? -1 : 1),
  );
  const header: [string, unknown][] = [];
  if (Object.keys(metadata).length > 0) {
    header.push([
      METADATA,
      Object.fromEntries(Object.entries(metadata).toSorted(([a], [b]) => (a < b ? -1 : 1))),
    ]);
  }
  let offset = 0;
  for (const [name, { dtype, shape, data }] of ordered) {
    if (name === METADATA)
      throw invalidArgument(`tensors.${name}`, 'is a reserved name; call the tensor something else');
    if (!holds(data, dtype) || data.length !== sizeOf(shape)) {
      throw invalidArgument(
        `tensors.${name}`,
        `is ${dtype} with ${sizeOf(shape)} elements, but its data is ${data.length} of ${dtypeOf(data)}`,
      );
    }
    header.push([name, { dtype: NAMES[dtype], shape, data_offsets: [offset, offset + data.byteLength] }]);
    offset += data.byteLength;
  }
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(header)));
  const start = Math.ceil((8 + json.length) / ALIGNMENT) * ALIGNMENT;
  const file = new Uint8Array(start + offset);
  new DataView(file.buffer).setBigUint64(0, BigInt(start - 8), true);
  file.set(json, 8);
  // The format pads headers with spaces, which JSON ignores.
  file.fill(0x20, 8 + json.length, start);
  let at = start;
  for (const [, { data }] of ordered) {
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return file;
}

const METADATA = '__metadata__';

/**
 * Reads a safetensors file. Nothing in it is trusted: lengths, JSON, dtypes, shapes and byte ranges are all checked,
 * ranges must fill the file without holes or overlaps, and names must be unique.
 *
 * @returns tensors that share the memory of `bytes` where it is aligned, and are copies elsewhere
 * @throws PlumbError DATA_LOSS naming what is corrupt
 */
export function readSafetensors(bytes: Uint8Array): Safetensors {
  if (bytes.length < 8) throw corrupt(`has ${bytes.length} bytes; the header length alone takes 8`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getBigUint64(0, true);
  if (length > LARGEST_HEADER)
    throw corrupt(`has a header of ${length} bytes; at most ${LARGEST_HEADER} are allowed`);
  const start = 8 + Number(length);
  if (start > bytes.length) {
    throw corrupt(`has ${bytes.length} bytes, fewer than the ${start} of its header; it may be cut off`);
  }
  const header = parseHeader(bytes.subarray(8, start));
  const metadata = readMetadata(header.get(METADATA));
  header.delete(METADATA);

  const tensors = new Map<string, TypedTensor>();
  const ranges: { name: string; from: number; to: number }[] = [];
  const size = bytes.length - start;
  for (const [name, value] of header) {
    const { dtype, shape, from, to } = readEntry(name, value, size);
    ranges.push({ name, from, to });
    tensors.set(name, { dtype, shape, data: viewElements(bytes, dtype, start + from, to - from) });
  }
  let filled = 0;
  for (const { name, from, to } of ranges.toSorted((a, b) => a.from - b.from || a.to - b.to)) {
    if (from < filled)
      throw corrupt(`has tensor '${name}' at byte ${from}, which overlaps the one before it`);
    if (from > filled) throw corrupt(`has a hole of ${from - filled} bytes before tensor '${name}'`);
    filled = to;
  }
  if (filled !== size) throw corrupt(`has ${size - filled} bytes that belong to no tensor`);
  return { tensors, metadata };
}

/** The header as a map. A JSON object keeps only the last of two equal names, so names are counted while parsing. */
function parseHeader(bytes: Uint8Array): Map<string, unknown> {
  let text: string;
  let parsed: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    parsed = JSON.parse(text);
  } catch (error) {
    throw corrupt('has a header that is not JSON in UTF-8', error);
  }
  // The reference implementation wants the object to start at once.
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed) || !text.startsWith('{')) {
    throw corrupt('has a header that is not a JSON object');
  }
  const names = topLevelKeys(text);
  const seen = new Set<string>();
  for (const name of names) {
    if (seen.has(name)) throw corrupt(`names '${name}' twice`);
    seen.add(name);
  }
  return new Map(Object.entries(parsed));
}

/** The keys of the outermost object of valid JSON, with repetitions. */
function topLevelKeys(json: string): string[] {
  const keys: string[] = [];
  let depth = 0;
  let isKey = false;
  // Strings, or one structural character.
  for (const [token] of json.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]/gs)) {
    if (token === '{' || token === '[') {
      depth += 1;
      isKey = depth === 1;
    } else if (token === '}' || token === ']') {
      depth -= 1;
    } else if (token === ',') {
      isKey = depth === 1;
    } else if (token === ':') {
      isKey = false;
    } else if (isKey && depth === 1) {
      keys.push(JSON.parse(token) as string);
    }
  }
  return keys;
}

function readMetadata(value: unknown): Record<string, string> {
  if (value === undefined) return {};
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw corrupt(`has ${METADATA} that is not an object`);
  }
  const entries = Object.entries(value).map(([key, text]): [string, string] => {
    if (typeof text !== 'string') throw corrupt(`has ${METADATA} whose value for '${key}' is not a string`);
    return [key, text];
  });
  // Assigning one by one would lose a key called __proto__.
  return Object.fromEntries(entries);
}

/** One tensor's entry of the header, checked against the number of data bytes. */
function readEntry(
  name: string,
  value: unknown,
  size: number,
): { dtype: DType; shape: number[]; from: number; to: number } {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw corrupt(`describes tensor '${name}' by something that is not an object`);
  }
  const { dtype: dtypeName, shape, data_offsets: offsets } = value as Record<string, unknown>;
  const dtype = typeof dtypeName === 'string' ? DTYPES.get(dtypeName) : undefined;
  if (dtype === undefined) {
    throw corrupt(
      `gives tensor '${name}' the dtype ${JSON.stringify(dtypeName)}; known are ${[...DTYPES.keys()].join(', ')}`,
    );
  }
  if (!isCounts(shape))
    throw corrupt(`gives tensor '${name}' a shape that is not a list of non-negative integers`);
  const elements = sizeOf(shape);
  if (!Number.isSafeInteger(elements)) throw corrupt(`gives tensor '${name}' a shape too large to count`);
  if (!isCounts(offsets) || offsets.length !== 2) {
    throw corrupt(`gives tensor '${name}' data_offsets that are not two non-negative integers`);
  }
  const [from = 0, to = 0] = offsets;
  if (from > to || to > size) {
    throw corrupt(`puts tensor '${name}' at bytes ${from} to ${to} of ${size}; it may be cut off`);
  }
  const needed = elements * elementArrays[dtype].BYTES_PER_ELEMENT;
  if (to - from !== needed) {
    throw corrupt(`gives tensor '${name}' ${to - from} bytes; its dtype and shape need ${needed}`);
  }
  return { dtype, shape, from, to };
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && (item as number) >= 0);
}

function corrupt(what: string, cause?: unknown): Error {
  return dataLoss(`the safetensors file ${what}`, cause === undefined ? {} : { cause });
}
