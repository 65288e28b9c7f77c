import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { graphError } from './errors.ts';
import type { Attribute, ExternalPlace, Graph, GraphNode, Tensor, TensorData } from './graph.ts';
import { dtypeOf, holds, sizeOf } from './graph.ts';
import { ONNX_DTYPES } from './operators/layout.ts';

/** The operator set that models are written for: the newest whose operators onnxruntime-node 1.30 runs on the CPU. */
export const ONNX_OPSET = 21;

/** IR version 10 goes with operator set 21 (ONNX 1.16). */
const IR_VERSION = 10;

/** protobuf messages end at 2 GiB, and ONNX files are one message. */
const LARGEST_MODEL = 2 ** 31 - 1;

/** What goes into the model besides the graph. */
export interface OnnxOptions {
  /**
   * Values for inputs, by name, that become part of the model: frozen weights. They are no inputs of the model then.
   */
  readonly initialisers?: ReadonlyMap<string, TensorData>;
  /** The outputs to write; all of them unless given. Nodes and inputs that none of them needs are left out. */
  readonly outputs?: readonly string[];
  /** Values that are fed in place of being computed, with the names of those inputs. */
  readonly given?: ReadonlyMap<Tensor, string>;
  /** Name of the ONNX graph, shown by tools. */
  readonly name?: string;
}

/**
 * Writes a graph as a standard-opset ONNX model (no custom operators).
 *
 * Inputs and outputs keep their names and their order of creation. Parameters are inputs unless `initialisers` holds
 * their values. Tensor data is copied once, into the result; external weights stay in their files.
 *
 * @returns the bytes of a ModelProto
 * @throws PlumbError INVALID_ARGUMENT for an unknown output or initialiser, a wrong number of elements, or a model of
 *   2 GiB or more
 */
export function toOnnx(graph: Graph, options: OnnxOptions = {}): Uint8Array<ArrayBuffer> {
  const selected = selectOutputs(graph, options.outputs);
  const given = options.given ?? new Map<Tensor, string>();
  const live = liveness(graph, selected, given);
  const initialisers = options.initialisers ?? new Map<string, TensorData>();
  const names = new Names(selected, given);

  const body = new MessageSizer();
  for (const node of graph.nodes) if (live.nodes.has(node)) writeNode(body, node, names, live.tensors);
  for (const [name, tensor] of selected) {
    if (names.of(tensor) === name) continue;
    // ONNX has no way to call one value by two names, or an input an output.
    body.message(1, (w) => writeOperator(w, 'Identity', `output/${name}`, [names.of(tensor)], [name], {}));
  }
  body.field(2, options.name ?? 'plumb');

  const known = new Set<string>();
  for (const tensor of graph.inputs) {
    if (tensor.source.kind !== 'input') continue;
    const { name } = tensor.source;
    known.add(name);
    if (!live.tensors.has(tensor)) continue;
    const values = initialisers.get(name);
    if (values === undefined) body.message(11, (w) => writeValueInfo(w, names.of(tensor), tensor));
    else body.tensor(names.of(tensor), tensor, values);
  }
  for (const [tensor, name] of given) {
    if (live.tensors.has(tensor)) body.message(11, (w) => writeValueInfo(w, name, tensor));
  }
  for (const name of initialisers.keys()) {
    if (!known.has(name))
      throw graphError('toOnnx', 'initialisers', `holds ${JSON.stringify(name)}, which is no input`);
  }
  for (const tensor of live.tensors) {
    if (tensor.source.kind === 'constant') body.tensor(names.of(tensor), tensor, tensor.source.data);
    if (tensor.source.kind === 'external') {
      const { place } = tensor.source;
      body.message(5, (w) => writeExternal(w, names.of(tensor), tensor, place));
    }
  }
  for (const [name, tensor] of selected) body.message(12, (w) => writeValueInfo(w, name, tensor));

  const head = new BinaryWriter();
  head.tag(1, WireType.Varint).int64(IR_VERSION);
  head.tag(2, WireType.LengthDelimited).string('plumb tensor-graph');
  head
    .tag(8, WireType.LengthDelimited)
    .bytes(new BinaryWriter().tag(2, WireType.Varint).int64(ONNX_OPSET).finish());
  head.tag(7, WireType.LengthDelimited).uint32(body.size);
  const start = head.finish();
  const total = start.length + body.size;
  if (total > LARGEST_MODEL) {
    throw graphError(
      'toOnnx',
      'initialisers',
      `make a model of ${total} bytes; ONNX files end at ${LARGEST_MODEL}`,
    );
  }
  const model = new Uint8Array(total);
  model.set(start);
  body.copyTo(model, start.length);
  return model;
}

/**
 * The folder that a model written with the same options must be opened with: the one that its external weights lie in.
 * @throws PlumbError INVALID_ARGUMENT when they lie in several
 */
export function weightsFolder(graph: Graph, options: OnnxOptions = {}): string | undefined {
  const live = liveness(graph, selectOutputs(graph, options.outputs), options.given ?? new Map());
  const folders = new Set<string>();
  for (const { source } of live.tensors) if (source.kind === 'external') folders.add(source.place.folder);
  if (folders.size > 1) {
    throw graphError(
      'toOnnx',
      'graph',
      `has weights in several folders (${[...folders].join(', ')}); one model reads from one folder`,
    );
  }
  return [...folders][0];
}

/** Names of the inputs, in order, that the model written with the same options has. */
export function liveInputs(graph: Graph, options: OnnxOptions = {}): Tensor[] {
  const live = liveness(graph, selectOutputs(graph, options.outputs), options.given ?? new Map());
  return graph.inputs.filter(
    (tensor) =>
      live.tensors.has(tensor) &&
      tensor.source.kind === 'input' &&
      options.initialisers?.has(tensor.source.name) !== true,
  );
}

function selectOutputs(graph: Graph, selection: readonly string[] | undefined): [string, Tensor][] {
  const names = selection ?? [...graph.outputs.keys()];
  if (names.length === 0) throw graphError('toOnnx', 'outputs', 'are none; name one with graph.output first');
  return names.map((name) => {
    const tensor = graph.outputs.get(name);
    if (tensor === undefined) {
      throw graphError(
        'toOnnx',
        'outputs',
        `has ${JSON.stringify(name)}; the graph's outputs are ${[...graph.outputs.keys()].join(', ')}`,
      );
    }
    return [name, tensor];
  });
}

/** The nodes and tensors that the outputs depend on; what is given depends on nothing. */
function liveness(
  graph: Graph,
  outputs: readonly (readonly [string, Tensor])[],
  given: ReadonlyMap<Tensor, string>,
): { nodes: Set<GraphNode>; tensors: Set<Tensor> } {
  const tensors = new Set<Tensor>();
  const nodes = new Set<GraphNode>();
  const pending = outputs.map(([, tensor]) => tensor);
  for (let tensor = pending.pop(); tensor !== undefined; tensor = pending.pop()) {
    if (tensors.has(tensor)) continue;
    if (tensor.graph !== graph) throw graphError('toOnnx', 'graph', 'does not own all of its tensors');
    tensors.add(tensor);
    if (given.has(tensor)) continue;
    if (tensor.source.kind !== 'node' || nodes.has(tensor.source.node)) continue;
    nodes.add(tensor.source.node);
    for (const input of tensor.source.node.inputs) if (input !== undefined) pending.push(input);
  }
  return { nodes, tensors };
}

/** Value names in the model: inputs and results that are outputs keep theirs, all else is called after its id. */
class Names {
  readonly #outputs = new Map<Tensor, string>();
  readonly #given: ReadonlyMap<Tensor, string>;

  constructor(outputs: readonly (readonly [string, Tensor])[], given: ReadonlyMap<Tensor, string>) {
    this.#given = given;
    for (const [name, tensor] of outputs) {
      if (tensor.source.kind === 'node' && !given.has(tensor) && !this.#outputs.has(tensor))
        this.#outputs.set(tensor, name);
    }
  }

  of(tensor: Tensor): string {
    const given = this.#given.get(tensor);
    if (given !== undefined) return given;
    if (tensor.source.kind === 'input') return tensor.source.name;
    return this.#outputs.get(tensor) ?? `%${tensor.id}`;
  }
}

function writeNode(body: MessageSizer, node: GraphNode, names: Names, live: ReadonlySet<Tensor>): void {
  const inputs = node.inputs.map((input) => (input === undefined ? '' : names.of(input)));
  const outputs = node.outputs.map((output) => (live.has(output) ? names.of(output) : ''));
  if (node.operator === 'BatchedProduct') {
    const sides = ['transposeA', 'transposeB'].map((flag, index) => {
      const input = node.inputs[index];
      const name = inputs[index] ?? '';
      if (input === undefined || node.attributes[flag] !== 1n) return name;
      const rank = input.shape.length;
      const order = input.shape.map((_, axis) => BigInt(axis));
      const perm = [...order.slice(0, -2), BigInt(rank - 1), BigInt(rank - 2)];
      const swapped = `${outputs[0]}.${flag}`;
      body.message(1, (w) =>
        writeOperator(w, 'Transpose', `${node.name}/${flag}`, [name], [swapped], { perm }),
      );
      return swapped;
    });
    body.message(1, (w) => writeOperator(w, 'MatMul', node.name, sides, outputs, {}));
    return;
  }
  if (node.operator === 'Silu') {
    const [x = ''] = inputs;
    const [y = ''] = outputs;
    // The gate always has a name, also when only this node reads it.
    const gate = outputs[1] || `${y}.gate`;
    body.message(1, (w) => writeOperator(w, 'Sigmoid', `${node.name}/gate`, [x], [gate], {}));
    if (y !== '') body.message(1, (w) => writeOperator(w, 'Mul', node.name, [x, gate], [y], {}));
    return;
  }
  // Results that nothing reads are left out, where they trail; Split needs all of its own.
  if (node.operator === 'Split') {
    for (const [index, output] of node.outputs.entries()) outputs[index] = names.of(output);
  } else {
    while (outputs.length > 1 && outputs.at(-1) === '') outputs.pop();
    // The first result is never optional, also where only another one is read.
    const [first] = node.outputs;
    if (outputs[0] === '' && first !== undefined) outputs[0] = names.of(first);
  }
  body.message(1, (w) => writeOperator(w, node.operator, node.name, inputs, outputs, node.attributes));
}

/** NodeProto. */
function writeOperator(
  writer: BinaryWriter,
  operator: string,
  name: string,
  inputs: readonly string[],
  outputs: readonly string[],
  attributes: Readonly<Record<string, Attribute>>,
): void {
  for (const input of inputs) writer.tag(1, WireType.LengthDelimited).string(input);
  for (const output of outputs) writer.tag(2, WireType.LengthDelimited).string(output);
  writer.tag(3, WireType.LengthDelimited).string(name);
  writer.tag(4, WireType.LengthDelimited).string(operator);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('_')) continue;
    writer.tag(5, WireType.LengthDelimited).fork();
    writeAttribute(writer, key, value);
    writer.join();
  }
}

/** AttributeProto; its type numbers are FLOAT 1, INT 2, STRING 3, FLOATS 6, INTS 7. */
function writeAttribute(writer: BinaryWriter, name: string, value: Attribute): void {
  writer.tag(1, WireType.LengthDelimited).string(name);
  let type: number;
  if (typeof value === 'bigint') {
    type = 2;
    writer.tag(3, WireType.Varint).int64(value);
  } else if (typeof value === 'number') {
    type = 1;
    writer.tag(2, WireType.Bit32).float(value);
  } else if (typeof value === 'string') {
    type = 3;
    writer.tag(4, WireType.LengthDelimited).string(value);
  } else if (value.every((item) => typeof item === 'bigint')) {
    type = 7;
    for (const item of value) writer.tag(8, WireType.Varint).int64(item);
  } else {
    type = 6;
    for (const item of value) writer.tag(7, WireType.Bit32).float(item);
  }
  writer.tag(20, WireType.Varint).int32(type);
}

/** ValueInfoProto of a tensor with a static shape. */
function writeValueInfo(writer: BinaryWriter, name: string, tensor: Tensor): void {
  writer.tag(1, WireType.LengthDelimited).string(name);
  // TypeProto.tensor_type
  writer.tag(2, WireType.LengthDelimited).fork();
  writer.tag(1, WireType.LengthDelimited).fork();
  writer.tag(1, WireType.Varint).int32(ONNX_DTYPES[tensor.dtype]);
  writer.tag(2, WireType.LengthDelimited).fork();
  for (const extent of tensor.shape) {
    writer.tag(1, WireType.LengthDelimited).fork();
    writer.tag(1, WireType.Varint).int64(extent);
    writer.join();
  }
  writer.join().join().join();
}

/** A TensorProto whose values stay in a file (data_location EXTERNAL). */
function writeExternal(writer: BinaryWriter, name: string, tensor: Tensor, place: ExternalPlace): void {
  for (const extent of tensor.shape) writer.tag(1, WireType.Varint).int64(extent);
  writer.tag(2, WireType.Varint).int32(ONNX_DTYPES[tensor.dtype]);
  writer.tag(8, WireType.LengthDelimited).string(name);
  const entries = { location: place.file, offset: String(place.offset), length: String(place.length) };
  for (const [key, value] of Object.entries(entries)) {
    writer.tag(13, WireType.LengthDelimited).fork();
    writer.tag(1, WireType.LengthDelimited).string(key);
    writer.tag(2, WireType.LengthDelimited).string(value);
    writer.join();
  }
  writer.tag(14, WireType.Varint).int32(1);
}

/** The fields of a message in pieces, so that large tensors are copied once, straight into the model. */
class MessageSizer {
  size = 0;
  readonly #pieces: Uint8Array[] = [];

  #push(piece: Uint8Array): void {
    this.#pieces.push(piece);
    this.size += piece.length;
  }

  field(number: number, value: string): void {
    this.#push(new BinaryWriter().tag(number, WireType.LengthDelimited).string(value).finish());
  }

  message(number: number, write: (writer: BinaryWriter) => void): void {
    const writer = new BinaryWriter().tag(number, WireType.LengthDelimited).fork();
    write(writer);
    this.#push(writer.join().finish());
  }

  /** An initialiser: a TensorProto with raw_data, which is little-endian like every machine that Node runs on. */
  tensor(name: string, tensor: Tensor, data: TensorData): void {
    if (!holds(data, tensor.dtype) || data.length !== sizeOf(tensor.shape)) {
      throw graphError(
        'toOnnx',
        'initialisers',
        `gives ${data.length} ${dtypeOf(data)} elements for ${JSON.stringify(name)}, ` +
          `which needs ${sizeOf(tensor.shape)} of ${tensor.dtype}`,
      );
    }
    const fields = new BinaryWriter();
    for (const extent of tensor.shape) fields.tag(1, WireType.Varint).int64(extent);
    fields.tag(2, WireType.Varint).int32(ONNX_DTYPES[tensor.dtype]);
    fields.tag(8, WireType.LengthDelimited).string(name);
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    fields.tag(9, WireType.LengthDelimited).uint32(bytes.length);
    const head = fields.finish();
    this.#push(
      new BinaryWriter()
        .tag(5, WireType.LengthDelimited)
        .uint32(head.length + bytes.length)
        .finish(),
    );
    this.#push(head);
    this.#push(bytes);
  }

  copyTo(target: Uint8Array, offset: number): void {
    let at = offset;
    for (const piece of this.#pieces) {
      target.set(piece, at);
      at += piece.length;
    }
  }
}
