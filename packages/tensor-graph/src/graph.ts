import { elementArrays } from './elements.ts';
import { describeShape, graphError } from './errors.ts';

/** Element types of tensors. `float64` exists for verification; models use `float32`. */
export type DType = 'float32' | 'float64' | 'float16' | 'bfloat16' | 'int32' | 'int64' | 'bool';

/** Element data of constants and initialisers. `bool` is one byte an element, float16 and bfloat16 the raw bits. */
export type TensorData = Float32Array | Float64Array | Uint16Array | Int32Array | BigInt64Array | Uint8Array;

/** An attribute of a node. Integers that ONNX stores as `int` are bigint or `boolean`; numbers are ONNX `float`. */
export type Attribute = number | bigint | string | readonly bigint[] | readonly number[];

/** One operator application. `operator` is the ONNX operator type except for the few that the writer expands. */
export interface GraphNode {
  readonly operator: string;
  /** Unique within the graph, with the scopes that were open: `block0/Softmax_41`. */
  readonly name: string;
  readonly inputs: readonly (Tensor | undefined)[];
  readonly attributes: Readonly<Record<string, Attribute>>;
  readonly outputs: readonly Tensor[];
}

/** Where a tensor's values come from. */
export type TensorSource =
  | { readonly kind: 'input'; readonly name: string; readonly trainable: boolean }
  | { readonly kind: 'constant'; readonly data: TensorData }
  | { readonly kind: 'external'; readonly place: ExternalPlace }
  | { readonly kind: 'node'; readonly node: GraphNode; readonly index: number };

/** Where the values of a fixed tensor lie in a file, little-endian and without gaps. */
export interface ExternalPlace {
  /** Absolute path of the folder that models which read this file are opened with. */
  readonly folder: string;
  /** Path of the file within the folder. */
  readonly file: string;
  /** First byte. */
  readonly offset: number;
  /** Number of bytes. */
  readonly length: number;
}

/** A value of a graph: a dtype and a static shape, no data. Made by a graph and by operators only. */
export interface Tensor {
  readonly graph: Graph;
  /** Rises in order of creation, so that ids are a topological order. */
  readonly id: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly source: TensorSource;
}

/** Dtype and shape of a result, given by an operator to `Graph.apply`. */
export interface ResultType {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** Nodes whose results are recomputed for the gradient: see `Graph.checkpoint`. */
export interface Checkpoint {
  /** In order of creation. */
  readonly nodes: GraphNode[];
}

const FLOATS: ReadonlySet<DType> = new Set<DType>(['float32', 'float64', 'float16', 'bfloat16']);

/** Whether values of this dtype can be differentiated. */
export function isFloat(dtype: DType): boolean {
  return FLOATS.has(dtype);
}

/** Number of elements of a shape; 1 for a scalar. */
export function sizeOf(shape: readonly number[]): number {
  let size = 1;
  for (const extent of shape) size *= extent;
  return size;
}

/** Whether a typed array can hold elements of a dtype. */
export function holds(data: TensorData, dtype: DType): boolean {
  return dtypeOf(data) === (dtype === 'bfloat16' ? 'float16' : dtype);
}

/** The dtype that a typed array holds: Uint8Array is `bool`, Uint16Array is `float16` where nothing says `bfloat16`. */
export function dtypeOf(data: TensorData): DType {
  if (data instanceof Float32Array) return 'float32';
  if (data instanceof Float64Array) return 'float64';
  if (data instanceof Int32Array) return 'int32';
  if (data instanceof BigInt64Array) return 'int64';
  if (data instanceof Uint16Array) return 'float16';
  return 'bool';
}

/** A typed array of the dtype, filled from numbers. float16 and bfloat16 are rounded to nearest even. */
export function dataOf(dtype: DType, values: readonly number[]): TensorData {
  switch (dtype) {
    case 'float32':
      return Float32Array.from(values);
    case 'float64':
      return Float64Array.from(values);
    case 'float16':
      return Uint16Array.from(values, float16Bits);
    case 'bfloat16':
      return Uint16Array.from(values, bfloat16Bits);
    case 'int32':
      return Int32Array.from(values);
    case 'int64':
      return BigInt64Array.from(values, (value) => BigInt(value));
    case 'bool':
      return Uint8Array.from(values);
  }
}

/** IEEE 754 binary16 bits of a number, rounded to nearest, ties to even. */
function float16Bits(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (magnitude >= 65_520) return sign | 0x7c00;
  const exponent = Math.max(Math.floor(Math.log2(magnitude || 2 ** -24)), -14);
  // In units of the last place; adding and subtracting 2^52 rounds a double to an integer, ties to even.
  const scaled = magnitude / 2 ** (exponent - 10);
  const units = scaled + 2 ** 52 - 2 ** 52;
  // A carry out of the fraction raises the exponent by itself, as the fields are adjacent.
  return sign | (units >= 1024 ? (exponent + 14) * 1024 + units : units);
}

/** The upper half of the bits of a float32, rounded to nearest, ties to even. */
function bfloat16Bits(value: number): number {
  if (Number.isNaN(value)) return 0x7fc0;
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/**
 * A tensor program under construction: inputs, constants, operator applications, named outputs. Shapes are static;
 * every operator checks and infers them as it is applied.
 */
export class Graph {
  readonly inputs: Tensor[] = [];
  readonly outputs = new Map<string, Tensor>();
  /** Every node in order of creation, which is a topological order. */
  readonly nodes: GraphNode[] = [];
  #nextId = 0;
  readonly #names = new Set<string>();
  readonly #shared = new Map<string, Tensor>();
  readonly #scopes: string[] = [];
  readonly #checkpoints = new Map<GraphNode, Checkpoint>();
  #checkpoint: Checkpoint | undefined;

  /**
   * A value fed at each run.
   * @param name unique among inputs
   * @param shape non-negative integers; `[]` is a scalar
   */
  input(name: string, dtype: DType, shape: readonly number[]): Tensor {
    return this.#addInput(name, dtype, shape, false);
  }

  /** An input that training updates: float32 unless `dtype` says otherwise. */
  parameter(name: string, shape: readonly number[], dtype: DType = 'float32'): Tensor {
    if (!isFloat(dtype))
      throw graphError('parameter', 'dtype', `${dtype} cannot be trained; use a float dtype`);
    return this.#addInput(name, dtype, shape, true);
  }

  /** The inputs made by `parameter`, in order of creation. */
  get parameters(): Tensor[] {
    return this.inputs.filter((tensor) => tensor.source.kind === 'input' && tensor.source.trainable);
  }

  /**
   * Fixed values, kept by reference and not copied: do not write to `data` afterwards. Nested plain numbers are not
   * accepted; a plain array of numbers becomes `dtype` (float32 unless given).
   */
  constant(data: TensorData | readonly number[], shape: readonly number[], dtype?: DType): Tensor {
    const array = Array.isArray(data)
      ? dataOf(dtype ?? 'float32', data as readonly number[])
      : (data as TensorData);
    const actual = dtype ?? dtypeOf(array);
    if (!holds(array, actual)) {
      throw graphError('constant', 'dtype', `is ${actual}, but the data is ${dtypeOf(array)}`);
    }
    this.#checkShape('constant', shape);
    if (array.length !== sizeOf(shape)) {
      throw graphError(
        'constant',
        'data',
        `has ${array.length} elements, but shape ${describeShape(shape)} needs ${sizeOf(shape)}`,
      );
    }
    return this.#add(actual, shape, { kind: 'constant', data: array });
  }

  /**
   * Fixed values that stay in their file: models made of the graph refer to it, and the runtime maps it into memory.
   * @throws PlumbError when the bytes are not as many as the shape needs
   */
  external(dtype: DType, shape: readonly number[], place: ExternalPlace): Tensor {
    this.#checkShape('external', shape);
    const bytes = sizeOf(shape) * elementArrays[dtype].BYTES_PER_ELEMENT;
    if (place.length !== bytes) {
      throw graphError(
        'external',
        'place',
        `has ${place.length} bytes, but ${dtype} ${describeShape(shape)} needs ${bytes}`,
      );
    }
    return this.#add(dtype, shape, { kind: 'external', place });
  }

  /** A scalar constant. Equal scalars of a graph are one tensor. */
  scalar(value: number, dtype: DType = 'float32'): Tensor {
    return this.#share(`${dtype}:${Object.is(value, -0) ? '-0' : value}`, () =>
      this.constant(dataOf(dtype, [value]), []),
    );
  }

  /** A one-dimensional int64 constant, as ONNX wants for shapes and axes. Equal lists of a graph are one tensor. */
  integers(values: readonly number[]): Tensor {
    return this.#share(`int64[]:${values.join(',')}`, () =>
      this.constant(dataOf('int64', values), [values.length]),
    );
  }

  /** A constant with one value everywhere. Equal ones of a graph are one tensor. */
  filled(value: number, shape: readonly number[], dtype: DType = 'float32'): Tensor {
    return this.#share(`${dtype}[${shape.join(',')}]:${value}`, () => {
      const data = dataOf(dtype, Array.from<number>({ length: 1 }).fill(value));
      const Type = data.constructor as new (length: number) => TensorData;
      const values = new Type(sizeOf(shape));
      if (value !== 0) (values.fill as (v: number | bigint) => unknown)(data[0] ?? 0);
      return this.constant(values, shape);
    });
  }

  /**
   * Names a value as an output of the program.
   * @param name unique among outputs, and not the name of an input
   */
  output(name: string, tensor: Tensor): void {
    if (tensor.graph !== this) throw graphError('output', 'tensor', 'belongs to another graph');
    if (this.outputs.has(name) || this.#names.has(name)) {
      throw graphError(
        'output',
        'name',
        `${JSON.stringify(name)} is taken; names of inputs and outputs are unique`,
      );
    }
    this.outputs.set(name, tensor);
  }

  /** Names of nodes made within `build` start with `name/`, so that errors and profiles can be read. */
  scope<T>(name: string, build: () => T): T {
    this.#scopes.push(name);
    try {
      return build();
    } finally {
      this.#scopes.pop();
    }
  }

  /**
   * What `build` makes is not kept for the gradient, but computed a second time when the gradient arrives (Chen et al.,
   * arXiv 1604.06174): less memory for more time. Within another checkpoint it changes nothing.
   */
  checkpoint<T>(build: () => T): T {
    if (this.#checkpoint !== undefined) return build();
    this.beginCheckpoint();
    try {
      return build();
    } finally {
      this.endCheckpoint();
    }
  }

  /** `checkpoint` where there is no function to call: what is made until `endCheckpoint` belongs to it. */
  beginCheckpoint(): void {
    this.#checkpoint = { nodes: [] };
  }

  /** @see beginCheckpoint */
  endCheckpoint(): void {
    this.#checkpoint = undefined;
  }

  /** The checkpoint that a node was made in. */
  checkpointOf(node: GraphNode): Checkpoint | undefined {
    return this.#checkpoints.get(node);
  }

  /**
   * Adds a node. For operators: they have checked everything and inferred the result types before they call this.
   * @returns one tensor a result type
   */
  apply(
    operator: string,
    inputs: readonly (Tensor | undefined)[],
    results: readonly ResultType[],
    attributes: Readonly<Record<string, Attribute>> = {},
  ): Tensor[] {
    for (const input of inputs) {
      if (input !== undefined && input.graph !== this) {
        throw graphError(operator, 'inputs', 'belong to two graphs; build the whole program on one Graph');
      }
    }
    const outputs: Tensor[] = [];
    const name = [...this.#scopes, `${operator}_${this.#nextId}`].join('/');
    const node: GraphNode = { operator, name, inputs, attributes, outputs };
    for (const [index, { dtype, shape }] of results.entries()) {
      outputs.push(this.#add(dtype, shape, { kind: 'node', node, index }));
    }
    this.nodes.push(node);
    if (this.#checkpoint !== undefined) {
      this.#checkpoint.nodes.push(node);
      this.#checkpoints.set(node, this.#checkpoint);
    }
    return outputs;
  }

  #addInput(name: string, dtype: DType, shape: readonly number[], trainable: boolean): Tensor {
    if (name === '') throw graphError('input', 'name', 'is empty; every input needs a name');
    if (this.#names.has(name) || this.outputs.has(name)) {
      throw graphError(
        'input',
        'name',
        `${JSON.stringify(name)} is taken; names of inputs and outputs are unique`,
      );
    }
    this.#checkShape('input', shape);
    this.#names.add(name);
    const tensor = this.#add(dtype, shape, { kind: 'input', name, trainable });
    this.inputs.push(tensor);
    return tensor;
  }

  #add(dtype: DType, shape: readonly number[], source: TensorSource): Tensor {
    return { graph: this, id: this.#nextId++, dtype, shape: [...shape], source };
  }

  #share(key: string, make: () => Tensor): Tensor {
    const existing = this.#shared.get(key);
    if (existing !== undefined) return existing;
    const made = make();
    this.#shared.set(key, made);
    return made;
  }

  #checkShape(operator: string, shape: readonly number[]): void {
    for (const extent of shape) {
      if (!Number.isSafeInteger(extent) || extent < 0) {
        throw graphError(operator, 'shape', `${describeShape(shape)} must hold non-negative integers`);
      }
    }
  }
}
