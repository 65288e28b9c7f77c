import { invalidArgument, invalidArguments, PlumbError } from '@plumb/kit/errors';
import type { NodeProto, ValueInfoProto } from '@plumb/proto/onnx/onnx_pb.js';
import type { ValueSpec } from '../engine/session.ts';
import type { TypedTensor } from '../engine/typed-tensor.ts';
import { describeShape } from '../errors.ts';
import { Graph, sizeOf } from '../graph.ts';
import type { DType, Tensor } from '../graph.ts';
import { cast } from '../operators/layout.ts';
import { extentAt, sameShape } from '../shape.ts';
import { canFold, fold } from './fold.ts';
import type { LinearLayer, Matrix } from './linear-layers.ts';
import { biasesOf, layerName, moduleOf, moduleOfWeights, withoutRoot } from './linear-layers.ts';
import type { OnnxFile, OnnxFileOptions } from './model-file.ts';
import { dtypeOfElement, nameOfNode, readOnnxFile, readTensor } from './model-file.ts';
import { NodeContext } from './node-context.ts';
import { translators } from './translators.ts';

export type { LinearLayer } from './linear-layers.ts';
export type { OnnxFileOptions } from './model-file.ts';
export { hashFile } from './model-file.ts';

/** How a model is imported. */
export interface OnnxImportOptions extends OnnxFileOptions {
  /** Extents of symbolic dimensions by name, such as `{ batch: 2 }`; `*` is for all that are not named. */
  readonly dimensions?: Readonly<Record<string, number>>;
  /** Whole shapes of inputs by name, for those whose dimensions have no names or are to be others. */
  readonly shapes?: Readonly<Record<string, readonly number[]>>;
  /** Inputs that are always the same, by name; they are no inputs of the network then. */
  readonly constants?: Readonly<Record<string, TypedTensor>>;
  /** `float32` computes in float32 what was exported in half precision; as exported unless given. */
  readonly halfPrecision?: 'as-exported' | 'float32';
  /** Name of the module that the model is, when a wrapper around it was exported (`model`); none unless given. */
  readonly rootModule?: string;
}

/** How a network is put on a graph. */
export interface NetworkOptions {
  /**
   * Called for every linear layer; what it returns takes the place of the layer's result.
   * @param x [..., inputs]
   * @param y what the layer makes, [..., outputs]
   */
  readonly adapt?: (layer: LinearLayer, x: Tensor, y: Tensor) => Tensor;
  /**
   * Modules whose results the gradient computes a second time in place of keeping them: names in which `*` stands for one
   * part, such as `blocks.*`. Where a node names no module, that of its weights counts, or of the nodes before it.
   */
  readonly rematerialise?: readonly string[];
}

/** An imported model with static shapes. Its weights are fixed; external ones stay in their files. */
export interface ImportedNetwork {
  /** What `apply` needs. */
  readonly inputs: readonly ValueSpec[];
  readonly outputs: readonly ValueSpec[];
  /** In the order in which the model computes them. */
  readonly linearLayers: readonly LinearLayer[];
  /** Number of weights. */
  readonly weights: number;
  /** Every file that the model is made of, relative to its folder, the model itself first. */
  readonly files: readonly string[];
  /** What models made of the network are loaded with as `weightsFolder`; undefined when it has no external data. */
  readonly folder: string | undefined;
  /**
   * Builds the network on a graph. Weights are shared between calls on one graph.
   * @param inputs a tensor for each of `inputs`
   * @returns a tensor for each of `outputs`
   * @throws PlumbError INVALID_ARGUMENT for an input that is missing, unknown or misshapen, or where no module has one of the
   *   names of `rematerialise`
   */
  apply(
    graph: Graph,
    inputs: Readonly<Record<string, Tensor>>,
    options?: NetworkOptions,
  ): Record<string, Tensor>;
}

/**
 * Reads an ONNX model, so that it can be built on a graph, differentiated and trained. Shapes become static: what
 * the model computes from them is worked out here.
 *
 * @param path a .onnx file; its external data lies beside it
 * @throws PlumbError as `readOnnxFile`, and: INVALID_ARGUMENT for a dimension or shape that is missing or unknown, or a
 *   shape that depends on values of inputs; UNIMPLEMENTED naming the node for an operator that cannot be read
 */
export async function importOnnx(path: string, options: OnnxImportOptions = {}): Promise<ImportedNetwork> {
  const file = await readOnnxFile(path, options);
  const inputs = bindInputs(file, options);
  const folded = new Map<NodeProto, Readonly<Record<string, TypedTensor>>>();
  const scratch = new Graph();
  const layers: LinearLayer[] = [];
  const construction = new Construction(file, scratch, options, folded, {
    adapt(layer, _x, y) {
      layers.push(layer);
      return y;
    },
  });
  for (const { name, dtype, shape } of inputs) construction.set(name, scratch.input(name, dtype, shape));
  for (const node of file.graph.node) {
    const from = construction.inputsOf(node);
    if (node.opType !== 'Constant' && node.opType !== 'Shape' && node.opType !== 'Size') {
      if (canFold(from, translators.has(node.opType))) folded.set(node, await foldNode(file, node, from));
    }
    construction.add(node, from);
  }
  const outputs = file.graph.output.map(({ name }): ValueSpec => {
    const { dtype, shape } = construction.valueOf(name);
    return { name, dtype, shape };
  });
  return {
    inputs,
    outputs,
    linearLayers: layers,
    weights: [...file.weights.values()].reduce((sum, { shape }) => sum + sizeOf(shape), 0),
    files: file.files,
    folder: [...file.weights.values()].find(({ place }) => place !== undefined)?.place?.folder,
    apply(graph, given, networkOptions = {}) {
      const construct = new Construction(file, graph, options, folded, networkOptions);
      for (const { name, dtype, shape } of inputs) {
        const tensor = given[name];
        if (tensor === undefined) throw invalidArgument(`inputs.${name}`, `is missing; ${path} needs it`);
        if (!sameShape(tensor.shape, shape) || tensor.dtype !== dtype) {
          throw invalidArgument(
            `inputs.${name}`,
            `is ${tensor.dtype} ${describeShape(tensor.shape)}; ${path} was imported for ${dtype} ${describeShape(shape)}`,
            { reason: 'SHAPE_MISMATCH' },
          );
        }
        construct.set(name, tensor);
      }
      const unknown = Object.keys(given).find((name) => !inputs.some((input) => input.name === name));
      if (unknown !== undefined) {
        throw invalidArgument(
          `inputs.${unknown}`,
          `is no input of ${path}, which has ${inputs.map(({ name }) => name).join(', ')}`,
        );
      }
      for (const node of inCheckpoints(graph, file, options, networkOptions)) {
        construct.add(node, construct.inputsOf(node));
      }
      return Object.fromEntries(outputs.map(({ name }) => [name, construct.valueOf(name)]));
    },
  };
}

async function foldNode(
  file: OnnxFile,
  node: NodeProto,
  inputs: readonly (Tensor | undefined)[],
): Promise<Record<string, TypedTensor>> {
  try {
    return await fold(node, inputs, file.opset);
  } catch (cause) {
    throw invalidArgument(
      'model',
      `${file.path}: node ${nameOfNode(node)} (${node.opType}) cannot be computed from its constants: ` +
        (cause instanceof Error ? cause.message : String(cause)),
      { cause },
    );
  }
}

/** Shapes and dtypes of the model's inputs, all problems named at once. */
function bindInputs(file: OnnxFile, options: OnnxImportOptions): ValueSpec[] {
  const { dimensions = {}, shapes = {}, constants = {} } = options;
  const own = file.graph.input.filter(({ name }) => !file.weights.has(name));
  const names = new Set(own.map(({ name }) => name));
  const violations: { field: string; description: string }[] = [];
  const complain = (field: string, description: string): void => {
    violations.push({ field, description: `${file.path}: ${description}` });
  };
  for (const [field, given] of Object.entries({ shapes, constants })) {
    for (const name of Object.keys(given)) {
      if (!names.has(name)) complain(`${field}.${name}`, `is no input; inputs are ${[...names].join(', ')}`);
    }
  }
  const symbols = new Set<string>();
  const specs: ValueSpec[] = [];
  for (const input of own) {
    const { name } = input;
    if (Object.hasOwn(constants, name)) continue;
    const { dtype, extents } = typeOfInput(file, input);
    const shape =
      shapes[name] ??
      extents.map((extent) =>
        typeof extent === 'number' ? extent : (dimensions[extent] ?? dimensions['*'] ?? -1),
      );
    for (const extent of extents) if (typeof extent === 'string') symbols.add(extent);
    if (
      shape.length !== extents.length ||
      shape.some((extent, axis) => typeof extents[axis] === 'number' && extent !== extents[axis])
    ) {
      complain(`shapes.${name}`, `${describeShape(shape)} is not of the form [${extents.join(', ')}]`);
    }
    for (const [axis, extent] of shape.entries()) {
      const symbol = extents[axis];
      if (Number.isInteger(extent) && extent >= 0) continue;
      if (symbol === '') complain(`shapes.${name}`, `is missing; axis ${axis} of the input has no name`);
      else complain(`dimensions.${symbol}`, `is missing; it is axis ${axis} of input ${name}`);
    }
    specs.push({ name, dtype: readAs(options).get(dtype) ?? dtype, shape });
  }
  for (const name of Object.keys(dimensions)) {
    if (!symbols.has(name) && name !== '*') {
      complain(
        `dimensions.${name}`,
        `is no dimension; there are ${[...symbols].filter(Boolean).join(', ') || 'none'}`,
      );
    }
  }
  const first = violations.findIndex(
    (violation, index) => violations.findIndex(({ field }) => field === violation.field) !== index,
  );
  if (violations.length > 0) throw invalidArguments(first < 0 ? violations : uniqueByField(violations));
  return specs;
}

function uniqueByField<T extends { readonly field: string }>(items: readonly T[]): T[] {
  return [...new Map(items.map((item) => [item.field, item])).values()];
}

/** The dtype of an input and its extents: numbers, names, or '' for ones that have neither. */
function typeOfInput(
  file: OnnxFile,
  { name, type }: ValueInfoProto,
): { dtype: DType; extents: (number | string)[] } {
  const tensor = type?.value.case === 'tensorType' ? type.value.value : undefined;
  const dtype = tensor === undefined ? undefined : dtypeOfElement(tensor.elemType);
  if (tensor?.shape === undefined || dtype === undefined) {
    throw invalidArgument(
      'model',
      `${file.path}: input ${name} is no tensor of a known element type and rank`,
    );
  }
  const extents = tensor.shape.dim.map(({ value }) => {
    if (value.case === 'dimValue') return Number(value.value);
    return value.case === 'dimParam' ? value.value : '';
  });
  return { dtype, extents };
}

function readAs(options: OnnxImportOptions): ReadonlyMap<DType, DType> {
  return options.halfPrecision === 'float32'
    ? new Map([
        ['float16', 'float32'],
        ['bfloat16', 'float32'],
      ])
    : new Map();
}

/** Matches a module and all below it; `*` stands for one part of its name, and what was matched is the first group. */
function modulePattern(pattern: string): RegExp {
  const literal = (text: string): string => text.replaceAll(/[$()+.?[\\\]^{|}]/g, String.raw`\$&`);
  return new RegExp(`^(${pattern.split('*').map(literal).join('[^.]*')})(?:[.]|$)`);
}

/** Yields the nodes in order, each from within the checkpoint that its module asks for. */
function* inCheckpoints(
  graph: Graph,
  file: OnnxFile,
  options: OnnxImportOptions,
  { rematerialise }: NetworkOptions,
): Generator<NodeProto> {
  const nodes = file.graph.node;
  if (rematerialise === undefined) {
    yield* nodes;
    return;
  }
  const patterns = rematerialise.map(modulePattern);
  const isWeight = (name: string): boolean => file.weights.has(name);
  const modules = nodes.map((node) =>
    withoutRoot(moduleOf(node) || moduleOfWeights(node, isWeight), options.rootModule ?? ''),
  );
  if (!modules.some((module) => patterns.some((pattern) => pattern.test(module)))) {
    const names = [...new Set(modules.filter((module) => module !== ''))];
    throw invalidArgument(
      'rematerialise',
      `looks for modules ${rematerialise.join(', ')}, but ${file.path} has none of them; ${names.length === 0 ? 'its nodes and weights name no modules: export it with torch.onnx.export' : `its modules are called, for example, ${names.slice(-3).join(', ')}`}`,
    );
  }
  const groupOf = (module: string): string | undefined => {
    for (const pattern of patterns) {
      const group = pattern.exec(module)?.[1];
      if (group !== undefined) return group;
    }
    return undefined;
  };
  let group: string | undefined;
  try {
    for (const [index, node] of nodes.entries()) {
      const module = modules[index] ?? '';
      const next = module === '' ? group : groupOf(module);
      if (next !== group) {
        if (group !== undefined) graph.endCheckpoint();
        group = next;
        if (group !== undefined) graph.beginCheckpoint();
      }
      yield node;
    }
  } finally {
    if (group !== undefined) graph.endCheckpoint();
  }
}

/** Weights that are on a graph already, by file and name. */
const weightsOnGraph = new WeakMap<Graph, Map<OnnxFile, Map<string, Tensor>>>();

/** A network on its way onto a graph. */
class Construction {
  readonly #file: OnnxFile;
  readonly #graph: Graph;
  readonly #options: OnnxImportOptions;
  readonly #folded: ReadonlyMap<NodeProto, Readonly<Record<string, TypedTensor>>>;
  readonly #adapt: NetworkOptions['adapt'];
  readonly #values = new Map<string, Tensor>();
  readonly #weights: Map<string, Tensor>;
  readonly #readAs: ReadonlyMap<DType, DType>;
  /** Values that are a weight matrix, as it is or transposed. */
  readonly #matrices = new Map<string, Matrix>();
  /** Biases that are added to products, by product. */
  readonly #biases: ReadonlyMap<string, string>;

  constructor(
    file: OnnxFile,
    graph: Graph,
    options: OnnxImportOptions,
    folded: ReadonlyMap<NodeProto, Readonly<Record<string, TypedTensor>>>,
    { adapt }: NetworkOptions,
  ) {
    this.#file = file;
    this.#graph = graph;
    this.#options = options;
    this.#folded = folded;
    this.#adapt = adapt;
    this.#readAs = readAs(options);
    const files = weightsOnGraph.get(graph) ?? new Map<OnnxFile, Map<string, Tensor>>();
    weightsOnGraph.set(graph, files);
    this.#weights = files.get(file) ?? new Map<string, Tensor>();
    files.set(file, this.#weights);
    for (const [name, { dtype, shape, data }] of Object.entries(options.constants ?? {})) {
      this.set(name, graph.constant(data, shape, dtype));
    }
    this.#biases = biasesOf(file.graph, (name) => file.weights.has(name));
    for (const [name, { shape }] of file.weights) {
      if (shape.length === 2) this.#matrices.set(name, { weight: name, transposed: false });
    }
  }

  set(name: string, tensor: Tensor): void {
    this.#values.set(name, tensor);
  }

  /** A value of the model on the graph. */
  valueOf(name: string): Tensor {
    const value = this.#values.get(name) ?? this.#weight(name);
    if (value === undefined) {
      throw invalidArgument(
        'model',
        `${this.#file.path}: nothing makes the value ${name}; its nodes are out of order`,
      );
    }
    return value;
  }

  inputsOf(node: NodeProto): (Tensor | undefined)[] {
    return node.input.map((name) => (name === '' ? undefined : this.valueOf(name)));
  }

  /** Builds a node and keeps what it makes. */
  add(node: NodeProto, inputs: readonly (Tensor | undefined)[]): void {
    const known = this.#folded.get(node);
    if (known !== undefined) {
      for (const [name, { dtype, shape, data }] of Object.entries(known)) {
        this.set(name, this.#asRead(this.#graph.constant(data, shape, dtype)));
      }
      return;
    }
    const context = new NodeContext(this.#file.path, this.#graph, node, inputs, this.#readAs);
    const made = this.#graph.scope(scopeOf(node), () => this.#build(context));
    for (const [index, name] of node.output.entries()) {
      const tensor = made[index];
      // Optional results that nothing here builds, such as a dropout mask, are missed when they are read.
      if (name !== '' && tensor !== undefined) this.set(name, tensor);
    }
  }

  #build(context: NodeContext): readonly Tensor[] {
    const { node } = context;
    if (node.opType === 'Constant') return [this.#constant(context)];
    if (node.opType === 'Shape') {
      const { shape } = context.input(0);
      return [
        this.#graph.integers(
          shape.slice(
            context.integer('start', 0),
            context.has('end') ? context.integer('end', 0) : undefined,
          ),
        ),
      ];
    }
    if (node.opType === 'Size') {
      return [this.#graph.constant(BigInt64Array.of(BigInt(sizeOf(context.input(0).shape))), [])];
    }
    const translator = translators.get(node.opType);
    if (translator === undefined) {
      throw context.unsupported(
        'cannot be read: there is no such operator in tensor-graph, and what it makes depends on inputs of the model',
      );
    }
    const made = ((): Tensor | readonly Tensor[] => {
      try {
        return translator(context);
      } catch (error) {
        if (error instanceof PlumbError && error.message.startsWith(`model: ${this.#file.path}`)) throw error;
        if (error instanceof PlumbError && error.code === 'INVALID_ARGUMENT') {
          throw context.fail(`does not fit: ${error.message}`, error);
        }
        throw error;
      }
    })();
    const list = Array.isArray(made) ? (made as readonly Tensor[]) : [made as Tensor];
    this.#followMatrix(node);
    const layer = this.#layerOf(node);
    const [result] = list;
    return layer === undefined || result === undefined || this.#adapt === undefined
      ? list
      : [this.#adapt(layer, context.input(0), result)];
  }

  /** A transposed or cast matrix is still that matrix. */
  #followMatrix(node: NodeProto): void {
    const [from = ''] = node.input;
    const [to = ''] = node.output;
    const matrix = this.#matrices.get(from);
    if (matrix === undefined || !['Transpose', 'Identity', 'Cast'].includes(node.opType)) return;
    const order = node.attribute.find(({ name }) => name === 'perm')?.ints;
    const swaps = node.opType === 'Transpose' && order?.[0] !== 0n;
    this.#matrices.set(to, { ...matrix, transposed: matrix.transposed !== swaps });
  }

  #layerOf(node: NodeProto): LinearLayer | undefined {
    if (node.opType !== 'MatMul' && node.opType !== 'Gemm') return undefined;
    const matrix = this.#matrices.get(node.input[1] ?? '');
    if (matrix === undefined) return undefined;
    const attribute = (name: string): number =>
      Number(node.attribute.find((each) => each.name === name)?.i ?? 0n);
    if (attribute('transA') === 1) return undefined;
    const { shape } = this.valueOf(node.input[1] ?? '');
    const transposed = attribute('transB') === 1;
    const bias = this.#biases.get(node.output[0] ?? '');
    const module = layerName(node, matrix.weight, bias, this.#options.rootModule ?? '');
    return module === ''
      ? undefined
      : {
          module,
          inputs: extentAt(shape, transposed ? 1 : 0),
          outputs: extentAt(shape, transposed ? 0 : 1),
          weight: matrix.weight,
          layout: matrix.transposed === transposed ? 'inputs-first' : 'outputs-first',
        };
  }

  #constant(context: NodeContext): Tensor {
    const tensor = context.attribute('value')?.t;
    if (tensor !== undefined) {
      const { dtype, shape, data } = readTensor(
        `${this.#file.path}: node ${nameOfNode(context.node)}`,
        tensor,
      );
      return this.#asRead(this.#graph.constant(data, shape, dtype));
    }
    if (context.has('value_int')) {
      return this.#graph.constant(BigInt64Array.of(BigInt(context.integer('value_int', 0))), []);
    }
    if (context.has('value_float')) return this.#graph.scalar(context.float('value_float', 0));
    const integers = context.integers('value_ints');
    if (integers !== undefined) return this.#graph.integers(integers);
    const floats = context.attribute('value_floats')?.floats;
    if (floats !== undefined) return this.#graph.constant(Float32Array.from(floats), [floats.length]);
    throw context.unsupported('is a constant that is neither a tensor nor numbers');
  }

  #weight(name: string): Tensor | undefined {
    const known = this.#weights.get(name);
    if (known !== undefined) return known;
    const weight = this.#file.weights.get(name);
    if (weight === undefined) return undefined;
    const { dtype, shape } = weight;
    const tensor = this.#asRead(
      weight.place === undefined
        ? this.#graph.constant(weight.data, shape, dtype)
        : this.#graph.external(dtype, shape, weight.place),
    );
    this.#weights.set(name, tensor);
    return tensor;
  }

  #asRead(tensor: Tensor): Tensor {
    return cast(tensor, this.#readAs.get(tensor.dtype) ?? tensor.dtype);
  }
}

/** What nodes built for a node of the model are called after: its module, where its name does not say it, and its name. */
function scopeOf(node: NodeProto): string {
  const name = nameOfNode(node);
  const module = moduleOf(node);
  return module === '' || name.startsWith('/') ? name : `${module}/${name}`;
}
