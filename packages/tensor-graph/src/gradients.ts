import { describeShape, graphError, missingGradient } from './errors.ts';
import type { GraphNode, Tensor } from './graph.ts';
import { isFloat, sizeOf } from './graph.ts';
import { gradientRules } from './gradient-rules.ts';
import { addAll } from './operators/elementwise.ts';

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
  for (const { node, needs } of path.toReversed()) {
    const incoming = node.outputs.map(gradientOf);
    if (incoming.every((gradient) => gradient === undefined)) continue;
    const rule = gradientRules.get(node.operator);
    if (rule === undefined) throw missingGradient(node.operator, node.name);
    const outgoing = rule({ node, gradients: incoming, needs });
    for (const [index, gradient] of outgoing.entries()) {
      const input = node.inputs[index];
      if (gradient !== undefined && input !== undefined && needs[index] === true) contribute(input, gradient);
    }
  }
  return wrt.map((tensor) => gradientOf(tensor) ?? graph.filled(0, tensor.shape, tensor.dtype));
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
