import type { DType, GraphNode, Tensor } from '../graph.ts';
import { dataOf, Graph } from '../graph.ts';
import { add } from '../operators/elementwise.ts';
import { cast } from '../operators/layout.ts';
import { sameShape } from '../shape.ts';
import { ancestors } from './prepared.ts';

/** What a training step computes in. Weights, gradient sums and the optimiser are float32 in all of them. */
export type Precision = 'float32' | 'bfloat16' | 'float16';

/**
 * What the loss of a float16 program is multiplied by before it is differentiated, so that small gradients do not vanish
 * (Micikevicius et al., arXiv 1710.03740).
 */
export interface LossScaling {
  /** A power of 2. */
  readonly scale: number;
  /** Steps since the scale was last changed. */
  readonly stableSteps: number;
  /** Steps so far whose gradient overflowed: they changed no weight, and halved the scale. */
  readonly skippedSteps: number;
}

/** Halved at once when a gradient overflows, so that the first steps find the right one. */
export const initialLossScaling: LossScaling = { scale: 2 ** 16, stableSteps: 0, skippedSteps: 0 };

/** Steps without overflow after which the scale is doubled. */
const GROWTH_STEPS = 2000;

/** The scaling after a step. */
export function nextLossScaling(
  { scale, stableSteps, skippedSteps }: LossScaling,
  overflowed: boolean,
): LossScaling {
  if (overflowed) return { scale: scale / 2, stableSteps: 0, skippedSteps: skippedSteps + 1 };
  return stableSteps + 1 === GROWTH_STEPS
    ? { scale: scale * 2, stableSteps: 0, skippedSteps }
    : { scale, stableSteps: stableSteps + 1, skippedSteps };
}

/** Computed in the lower precision whatever their operands are: what takes the time. */
const PRODUCTS: ReadonlySet<string> = new Set(['Gemm', 'BatchedProduct', 'Conv', 'ConvTranspose']);

/** Computed in the lower precision where all of their float operands are in it: what moves or gates the results of products. */
const FOLLOWERS: ReadonlySet<string> = new Set(
  (
    'Reshape Transpose Slice Concat Split Expand Gather GatherND Pad Identity Where ' +
    'Add Sub Mul Neg Sum Silu Gelu Sigmoid Tanh Relu'
  ).split(' '),
);

/**
 * Rewrites a float32 program so that products compute in a lower precision, and what lies between them does where it has
 * nothing else to read. Everything else is float32: reductions, statistics of normalisation, softmax, exponentials, the
 * loss, sums of gradients. Weights stay float32 and are cast where a product reads them.
 *
 * @param outputs what is kept of the graph, by name; float32 there as well
 * @param given values that are fed in place of being computed, with the names of those inputs
 * @returns another graph with the same inputs and outputs; what is given is an input of its name
 */
export function inPrecision(
  graph: Graph,
  outputs: readonly string[],
  given: ReadonlyMap<Tensor, string>,
  precision: Exclude<Precision, 'float32'>,
): Graph {
  const rewriting = new Rewriting(precision);
  for (const tensor of graph.inputs) rewriting.addInput(tensor);
  for (const [tensor, name] of given) rewriting.addGiven(tensor, name);
  const wanted = outputs.flatMap((name) => graph.outputs.get(name) ?? []);
  const needed = ancestors(wanted, given);
  for (const node of graph.nodes) {
    const lives = node.outputs.some((output) => needed.has(output) && !given.has(output));
    if (lives) rewriting.addNode(node);
  }
  for (const name of outputs) {
    const tensor = graph.outputs.get(name);
    if (tensor !== undefined) rewriting.graph.output(name, rewriting.full(tensor));
  }
  return rewriting.graph;
}

class Rewriting {
  readonly graph = new Graph();
  readonly #low: DType;
  /** Tensors of the first graph as they are made on the second. */
  readonly #made = new Map<Tensor, Tensor>();
  readonly #casts = new Map<Tensor, Map<DType, Tensor>>();

  constructor(low: DType) {
    this.#low = low;
  }

  addInput(tensor: Tensor): void {
    const { source, dtype, shape } = tensor;
    if (source.kind !== 'input') return;
    const made = source.trainable
      ? this.graph.parameter(source.name, shape, dtype)
      : this.graph.input(source.name, dtype, shape);
    this.#made.set(tensor, made);
  }

  addGiven(tensor: Tensor, name: string): void {
    this.#made.set(tensor, this.graph.input(name, tensor.dtype, tensor.shape));
  }

  addNode(node: GraphNode): void {
    const low = this.#isLow(node);
    const apart = low && node.operator === 'Gemm' ? termOf(node) : undefined;
    const inputs = node.inputs.map((input, index) => {
      if (input === undefined || (apart !== undefined && index === 2)) return undefined;
      return low ? this.#lowered(input) : this.full(input);
    });
    const results = node.outputs.map(({ dtype, shape }) => ({
      dtype: low && dtype === 'float32' ? this.#low : dtype,
      shape,
    }));
    while (inputs.length > 0 && inputs.at(-1) === undefined) inputs.pop();
    const made = this.graph.scope(node.name, () =>
      this.graph.apply(node.operator, inputs, results, node.attributes),
    );
    for (const [index, output] of node.outputs.entries()) {
      let tensor = made[index];
      if (tensor === undefined) continue;
      if (apart !== undefined) tensor = add(this.#cast(tensor, 'float32'), this.full(apart));
      this.#made.set(output, tensor);
    }
  }

  /** A tensor in its own dtype. */
  full(tensor: Tensor): Tensor {
    return this.#cast(this.#of(tensor), tensor.dtype);
  }

  #lowered(tensor: Tensor): Tensor {
    if (tensor.dtype !== 'float32') return this.#of(tensor);
    const small = this.#smallConstant(tensor);
    return small ?? this.#cast(this.#of(tensor), this.#low);
  }

  #of(tensor: Tensor): Tensor {
    const known = this.#made.get(tensor);
    if (known !== undefined) return known;
    const { source, dtype, shape } = tensor;
    const made =
      source.kind === 'external'
        ? this.graph.external(dtype, shape, source.place)
        : this.graph.constant(source.kind === 'constant' ? source.data : [], shape, dtype);
    this.#made.set(tensor, made);
    return made;
  }

  #isLow(node: GraphNode): boolean {
    const floats = node.inputs.filter((input) => input?.dtype === 'float32');
    if (floats.length === 0 || node.outputs.some(({ dtype }) => dtype !== 'float32')) return false;
    if (PRODUCTS.has(node.operator)) return !isRowSum(node);
    if (!FOLLOWERS.has(node.operator)) return false;
    // Numbers such as a factor of 2 take the precision of what they are applied to.
    const deciding = floats.filter(
      (input) => input !== undefined && this.#smallConstant(input) === undefined,
    );
    return (
      deciding.length > 0 &&
      deciding.every((input) => input !== undefined && this.#made.get(input)?.dtype === this.#low)
    );
  }

  /** A number that the lower precision holds without over- or underflow. */
  #smallConstant(tensor: Tensor): Tensor | undefined {
    const { source, shape, dtype } = tensor;
    if (source.kind !== 'constant' || dtype !== 'float32' || source.data.length !== 1) return undefined;
    const value = Number(source.data[0]);
    const magnitude = Math.abs(value);
    // Normal numbers of float16; those of bfloat16 reach farther.
    if (magnitude !== 0 && !(magnitude >= 2 ** -14 && magnitude <= 65_504)) return undefined;
    return this.#remembered(tensor, this.#low, () =>
      this.graph.constant(dataOf(this.#low, [value]), shape, this.#low),
    );
  }

  #cast(tensor: Tensor, dtype: DType): Tensor {
    if (tensor.dtype === dtype) return tensor;
    // There and back again is where it was.
    const { source } = tensor;
    if (source.kind === 'node' && source.node.operator === 'Cast' && source.node.inputs[0]?.dtype === dtype) {
      const [from] = source.node.inputs;
      if (from !== undefined && widerThan(tensor.dtype, dtype)) return from;
    }
    return this.#remembered(tensor, dtype, () => cast(tensor, dtype));
  }

  #remembered(tensor: Tensor, dtype: DType, make: () => Tensor): Tensor {
    const casts = this.#casts.get(tensor) ?? new Map<DType, Tensor>();
    this.#casts.set(tensor, casts);
    const known = casts.get(dtype);
    if (known !== undefined) return known;
    const made = make();
    casts.set(dtype, made);
    return made;
  }
}

/** The term that a product is added to, where that is a float32 sum and no bias. */
function termOf(node: GraphNode): Tensor | undefined {
  const [, , term] = node.inputs;
  const [result] = node.outputs;
  return term !== undefined && result !== undefined && sameShape(term.shape, result.shape) ? term : undefined;
}

/** Rows added up by a product with ones (see `unbroadcast`): a reduction, and as such float32. */
function isRowSum({ operator, inputs: [ones] }: GraphNode): boolean {
  if (operator !== 'Gemm' || ones?.source.kind !== 'constant') return false;
  const { data } = ones.source;
  return ones.shape[0] === 1 && (data as Float32Array).every((value) => value === 1);
}

function widerThan(dtype: DType, other: DType): boolean {
  return dtype === 'float32' && (other === 'float16' || other === 'bfloat16');
}
