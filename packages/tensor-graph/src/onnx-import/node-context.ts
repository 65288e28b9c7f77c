import { invalidArgument, PlumbError } from '@plumb/kit/errors';
import type { AttributeProto, NodeProto } from '@plumb/proto/onnx/onnx_pb.js';
import { AttributeProto_AttributeType } from '@plumb/proto/onnx/onnx_pb.js';
import { describeShape } from '../errors.ts';
import type { Attribute, DType, Graph, Tensor } from '../graph.ts';
import { normaliseAxis } from '../shape.ts';
import { nameOfNode } from './model-file.ts';

/** The kinds of attributes that a graph's node can have. */
const plainAttributes = new Map<AttributeProto_AttributeType, (attribute: AttributeProto) => Attribute>([
  [AttributeProto_AttributeType.INT, ({ i }) => i],
  [AttributeProto_AttributeType.FLOAT, ({ f }) => f],
  [AttributeProto_AttributeType.STRING, ({ s }) => new TextDecoder().decode(s)],
  [AttributeProto_AttributeType.INTS, ({ ints }) => ints],
  [AttributeProto_AttributeType.FLOATS, ({ floats }) => floats],
]);

/** A node of a model in translation: its attributes and inputs, read as its translator expects them. */
export class NodeContext {
  readonly graph: Graph;
  readonly node: NodeProto;
  /** Element types read as another: half precision read as float32. */
  readonly readAs: ReadonlyMap<DType, DType>;
  /** Tensors of the graph that is built; undefined for an optional input that is left out. */
  readonly inputs: readonly (Tensor | undefined)[];
  readonly #attributes: ReadonlyMap<string, AttributeProto>;
  readonly #path: string;

  constructor(
    path: string,
    graph: Graph,
    node: NodeProto,
    inputs: readonly (Tensor | undefined)[],
    readAs: ReadonlyMap<DType, DType>,
  ) {
    this.#path = path;
    this.graph = graph;
    this.node = node;
    this.readAs = readAs;
    this.inputs = inputs;
    this.#attributes = new Map(node.attribute.map((attribute) => [attribute.name, attribute]));
  }

  /** An INVALID_ARGUMENT that names model, node and operator. */
  fail(what: string, cause?: unknown): PlumbError {
    return invalidArgument(
      'model',
      `${this.#path}: node ${nameOfNode(this.node)} (${this.node.opType}) ${what}`,
      cause === undefined ? {} : { cause },
    );
  }

  /** An UNIMPLEMENTED that names model, node and operator. */
  unsupported(what: string): PlumbError {
    return new PlumbError({
      code: 'UNIMPLEMENTED',
      reason: 'METHOD_UNIMPLEMENTED',
      message: `${this.#path}: node ${nameOfNode(this.node)} (${this.node.opType}) ${what}`,
      metadata: { operator: this.node.opType, node: nameOfNode(this.node) },
    });
  }

  /** A required input. */
  input(index: number): Tensor {
    const tensor = this.inputs[index];
    if (tensor === undefined) throw this.fail(`has no input ${index}`);
    return tensor;
  }

  has(attribute: string): boolean {
    return this.#attributes.has(attribute);
  }

  integer(name: string, fallback: number): number {
    const attribute = this.#attributes.get(name);
    return attribute === undefined ? fallback : Number(attribute.i);
  }

  float(name: string, fallback: number): number {
    return this.#attributes.get(name)?.f ?? fallback;
  }

  text(name: string, fallback: string): string {
    const attribute = this.#attributes.get(name);
    return attribute === undefined ? fallback : new TextDecoder().decode(attribute.s);
  }

  integers(name: string): number[] | undefined {
    return this.#attributes.get(name)?.ints.map(Number);
  }

  attribute(name: string): AttributeProto | undefined {
    return this.#attributes.get(name);
  }

  /** Attributes as a graph's node has them, for operators that are passed on as they are. */
  passedOn(): Record<string, Attribute> {
    const passed: Record<string, Attribute> = {};
    for (const attribute of this.#attributes.values()) {
      const read = plainAttributes.get(attribute.type);
      if (read === undefined) {
        throw this.unsupported(`has an attribute ${attribute.name} of a kind that cannot be passed on`);
      }
      passed[attribute.name] = read(attribute);
    }
    return passed;
  }

  /**
   * Values of an input that must be known when the model is imported.
   * @returns undefined when the input is left out
   */
  numbers(index: number): number[] | undefined {
    const tensor = this.inputs[index];
    if (tensor === undefined) return undefined;
    if (tensor.source.kind !== 'constant') {
      throw this.fail(
        `needs the values of its input ${this.node.input[index]} when the model is imported, but they depend on the ` +
          "values of the model's inputs; give those in `constants`, or export the model with them fixed",
      );
    }
    if (tensor.dtype === 'float16' || tensor.dtype === 'bfloat16') {
      throw this.unsupported(`reads numbers of ${tensor.dtype} from ${this.node.input[index]}`);
    }
    return Array.from(tensor.source.data as ArrayLike<number | bigint>, Number);
  }

  /** Axes that older operator sets have as an attribute and newer ones as an input. */
  axes(inputIndex: number): number[] | undefined {
    return this.integers('axes') ?? this.numbers(inputIndex);
  }

  /** An axis of a tensor in 0..rank-1. */
  axisOf(tensor: Tensor, axis: number): number {
    return normaliseAxis(this.node.opType, axis, tensor.shape.length);
  }

  /** One node of the same operator, with result type given; for operators without gradient. */
  same(inputs: readonly Tensor[], shape: readonly number[], dtype: DType): Tensor {
    const [made] = this.graph.apply(this.node.opType, inputs, [{ dtype, shape }], this.passedOn());
    if (made === undefined) throw this.fail(`made nothing of shape ${describeShape(shape)}`);
    return made;
  }
}
