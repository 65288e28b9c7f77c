import type { Graph, GraphNode, Tensor } from '../graph.ts';
import { gradients } from '../gradients.ts';
import { addAll, mul } from '../operators/elementwise.ts';
import { reduceSum } from '../operators/reduction.ts';

/** What the parameters alone decide, and is therefore the same for every micro-batch of a step. */
export interface PreparedTensors {
  /** Nodes that depend on parameters and fixed values, and on no feed; all are float32. */
  readonly nodes: ReadonlySet<GraphNode>;
  /** Their results that the rest of the loss and the metrics read, in order of creation. */
  readonly tensors: readonly Tensor[];
}

/**
 * Finds what can be computed once a step in place of once a micro-batch: a table spread over all pairs of tokens, a
 * low-rank change added to its matrix, weights in another precision.
 *
 * @param results loss and metrics
 * @param parameters what is trained
 * @param fixed names of inputs whose values are part of the program
 */
export function findPrepared(
  graph: Graph,
  results: readonly Tensor[],
  parameters: readonly Tensor[],
  fixed: ReadonlySet<string>,
): PreparedTensors {
  const trained = new Set(parameters);
  /** Known before the micro-batch; true when parameters have a part in it. */
  const early = new Map<Tensor, boolean>();
  const earlyOf = (tensor: Tensor | undefined): boolean | undefined => {
    if (tensor === undefined || tensor.source.kind === 'constant' || tensor.source.kind === 'external') {
      return false;
    }
    if (tensor.source.kind === 'input') {
      if (trained.has(tensor)) return true;
      return fixed.has(tensor.source.name) ? false : undefined;
    }
    return early.get(tensor);
  };
  const nodes = new Set<GraphNode>();
  const read = new Set<Tensor>(results);
  for (const node of graph.nodes) {
    const parts = new Set(node.inputs.map(earlyOf));
    // Prepared tensors are kept in memory for float32; what is not is left to the micro-batches.
    if (parts.has(undefined) || node.outputs.some(({ dtype }) => dtype !== 'float32')) {
      for (const input of node.inputs) if (input !== undefined) read.add(input);
      continue;
    }
    const trainedPart = parts.has(true);
    for (const output of node.outputs) early.set(output, trainedPart);
    if (trainedPart) nodes.add(node);
  }
  const needed = ancestors(results);
  const tensors = [...read]
    .filter((tensor) => tensor.source.kind === 'node' && nodes.has(tensor.source.node) && needed.has(tensor))
    .toSorted((a, b) => a.id - b.id);
  return { nodes, tensors };
}

/** What tensors depend on, with themselves; what is given depends on nothing. */
export function ancestors(
  results: readonly Tensor[],
  given: ReadonlyMap<Tensor, string> = new Map(),
): Set<Tensor> {
  const found = new Set<Tensor>();
  const pending = [...results];
  for (let tensor = pending.pop(); tensor !== undefined; tensor = pending.pop()) {
    if (found.has(tensor)) continue;
    found.add(tensor);
    if (tensor.source.kind !== 'node' || given.has(tensor)) continue;
    for (const input of tensor.source.node.inputs) if (input !== undefined) pending.push(input);
  }
  return found;
}

/**
 * Carries gradients of prepared tensors on to the parameters.
 * @param incoming the gradient of each of `tensors`
 * @returns one gradient for each parameter; undefined for those that have no part in any of `tensors`
 */
export function gradientsOfPrepared(
  tensors: readonly Tensor[],
  incoming: readonly Tensor[],
  parameters: readonly Tensor[],
): (Tensor | undefined)[] {
  const reached = ancestors(tensors);
  const concerned = parameters.filter((parameter) => reached.has(parameter));
  if (concerned.length === 0) return parameters.map(() => undefined);
  // The gradient of <tensor, g> is what g becomes on its way back.
  const products = tensors.flatMap((tensor, index) => {
    const gradient = incoming[index];
    return gradient === undefined ? [] : [reduceSum(mul(tensor, gradient))];
  });
  const found = gradients(addAll(products), concerned);
  return parameters.map((parameter) => found[concerned.indexOf(parameter)]);
}
