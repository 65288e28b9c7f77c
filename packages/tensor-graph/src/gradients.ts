import { describeShape, graphError, missingGradient } from './errors.ts';
import type { Checkpoint, DType, GraphNode, Tensor } from './graph.ts';
import { isFloat, sizeOf } from './graph.ts';
import { gradientRules } from './gradient-rules.ts';
import { add, addAll, less } from './operators/elementwise.ts';
import { cast, reshape, slice } from './operators/layout.ts';

/**
 * Reverse-mode differentiation: builds, on the same graph, the gradient of a scalar with respect to each tensor.
 *
 * Only nodes on a path from `wrt` to `loss` are differentiated. Gradients are ordinary tensors, so they can be
 * differentiated again.
 *
 * @param loss float, one element
 * @param wrt any float tensors of the graph, parameters or not
 * @param options.without nodes that gradients do not pass through
 * @returns one gradient for each of `wrt`, of its shape; zeros where the loss does not depend on it
 * @throws PlumbError INVALID_ARGUMENT for a loss that is not a scalar or an integer tensor in `wrt`; UNIMPLEMENTED
 *   naming operator and node when one on the path has no gradient rule
 */
export function gradients(
  loss: Tensor,
  wrt: readonly Tensor[],
  options: { readonly without?: ReadonlySet<GraphNode> } = {},
): Tensor[] {
  if (!isFloat(loss.dtype) || sizeOf(loss.shape) !== 1) {
    throw graphError(
      'gradients',
      'loss',
      `${loss.dtype} ${describeShape(loss.shape)} must be a float scalar`,
    );
  }
  for (const [index, tensor] of wrt.entries()) {
    if (!isFloat(tensor.dtype)) {
      throw graphError('gradients', `wrt[${index}]`, `is ${tensor.dtype}; only float tensors have gradients`);
    }
    if (tensor.graph !== loss.graph)
      throw graphError('gradients', `wrt[${index}]`, 'belongs to another graph than loss');
  }
  const graph = loss.graph;
  const path = nodesBetween(wrt, loss, options.without);

  const contributions = new Map<Tensor, Tensor[]>();
  const contribute = (tensor: Tensor, gradient: Tensor): void => {
    const list = contributions.get(tensor);
    if (list === undefined) contributions.set(tensor, [gradient]);
    else list.push(gradient);
  };
  const settled = new Map<Tensor, Tensor>();
  const gradientOf = (tensor: Tensor): Tensor | undefined => {
    const known = settled.get(tensor);
    if (known !== undefined) return known;
    const list = contributions.get(tensor);
    if (list === undefined) return undefined;
    const total = addAll(list);
    settled.set(tensor, total);
    return total;
  };

  contribute(loss, graph.filled(1, loss.shape, loss.dtype));
  const recomputations = new Map<Checkpoint, ReadonlyMap<GraphNode, GraphNode>>();
  /** The node to differentiate in place of `node`: itself, or its second making. */
  const standInOf = (node: GraphNode, gradient: Tensor): GraphNode => {
    const checkpoint = graph.checkpointOf(node);
    if (checkpoint === undefined) return node;
    let copies = recomputations.get(checkpoint);
    if (copies === undefined) {
      copies = recompute(checkpoint, gradient, options.without);
      recomputations.set(checkpoint, copies);
    }
    return copies.get(node) ?? node;
  };
  for (const { node, needs } of path.toReversed()) {
    const incoming = node.outputs.map(gradientOf);
    const arrived = incoming.find((gradient) => gradient !== undefined);
    if (arrived === undefined) continue;
    const rule = gradientRules.get(node.operator);
    if (rule === undefined) throw missingGradient(node.operator, node.name);
    const outgoing = rule({ node: standInOf(node, arrived), gradients: incoming, needs });
    for (const [index, gradient] of outgoing.entries()) {
      const input = node.inputs[index];
      if (gradient !== undefined && input !== undefined && needs[index] === true) contribute(input, gradient);
    }
  }
  return wrt.map((tensor) => gradientOf(tensor) ?? graph.filled(0, tensor.shape, tensor.dtype));
}

/**
 * Makes the nodes of a checkpoint a second time, after a gradient has arrived. Their inputs pass through an addition of
 * a 0 that is made of that gradient: otherwise a runtime would find the two makings equal and keep the first, or do the
 * second before it is needed.
 *
 * @param gradient of what the checkpoint's last node on the path made
 * @param without nodes whose results stay: they are computed before everything else
 * @returns the second making of each node
 */
function recompute(
  { nodes }: Checkpoint,
  gradient: Tensor,
  without: ReadonlySet<GraphNode> | undefined,
): ReadonlyMap<GraphNode, GraphNode> {
  const { graph } = gradient;
  // Not less than itself, NaN or not: 0.
  const element = slice(reshape(gradient, [-1]), 0, 0, 1);
  const zeros = new Map<DType, Tensor>();
  const zeroOf = (dtype: DType): Tensor => {
    let zero = zeros.get(dtype);
    if (zero === undefined) {
      zero = cast(less(element, element), dtype);
      zeros.set(dtype, zero);
    }
    return zero;
  };
  const made = new Map<Tensor, Tensor>();
  const again = (tensor: Tensor): Tensor => {
    const known = made.get(tensor);
    if (known !== undefined) return known;
    // Inputs and what follows from parameters alone are there anyway.
    if (
      tensor.source.kind !== 'node' ||
      without?.has(tensor.source.node) === true ||
      !isFloat(tensor.dtype)
    ) {
      return tensor;
    }
    const gated = reshape(add(tensor, zeroOf(tensor.dtype)), tensor.shape);
    made.set(tensor, gated);
    return gated;
  };
  const copies = new Map<GraphNode, GraphNode>();
  for (const node of nodes) {
    if (without?.has(node) === true) continue;
    const inputs = node.inputs.map((input) => (input === undefined ? undefined : again(input)));
    const outputs = graph.apply(node.operator, inputs, node.outputs, node.attributes);
    for (const [index, output] of node.outputs.entries()) {
      const copy = outputs[index];
      if (copy === undefined) continue;
      made.set(output, copy);
      if (copy.source.kind === 'node') copies.set(node, copy.source.node);
    }
  }
  return copies;
}

interface Step {
  readonly node: GraphNode;
  /** Which inputs depend on `wrt`. */
  readonly needs: readonly boolean[];
}

/** Nodes on a path from any of `from` to `to`, in topological order. */
function nodesBetween(from: readonly Tensor[], to: Tensor, without?: ReadonlySet<GraphNode>): Step[] {
  const ancestors = new Set<GraphNode>();
  const pending: Tensor[] = [to];
  for (let tensor = pending.pop(); tensor !== undefined; tensor = pending.pop()) {
    if (tensor.source.kind !== 'node' || ancestors.has(tensor.source.node)) continue;
    ancestors.add(tensor.source.node);
    for (const input of tensor.source.node.inputs) if (input !== undefined) pending.push(input);
  }
  const dependent = new Set<Tensor>(from);
  const steps: Step[] = [];
  for (const node of to.graph.nodes) {
    // A stopped gradient ends the path; so does a value that is not float.
    if (!ancestors.has(node) || without?.has(node) === true || node.attributes['_stop'] !== undefined)
      continue;
    const needs = node.inputs.map(
      (input) => input !== undefined && isFloat(input.dtype) && dependent.has(input),
    );
    if (!needs.includes(true)) continue;
    let differentiable = false;
    for (const output of node.outputs) {
      if (!isFloat(output.dtype)) continue;
      dependent.add(output);
      differentiable = true;
    }
    if (differentiable) steps.push({ node, needs });
  }
  return steps;
}
