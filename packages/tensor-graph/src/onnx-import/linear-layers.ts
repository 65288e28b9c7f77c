import type { GraphProto, NodeProto } from '@plumb/proto/onnx/onnx_pb.js';

/** A fully connected layer of a model: a product with a weight matrix that is part of the model. */
export interface LinearLayer {
  /** The layer's name in the model that was exported: `blocks.0.attn1.to_q`. */
  readonly module: string;
  readonly inputs: number;
  readonly outputs: number;
  /** The initialiser that holds its weights. */
  readonly weight: string;
  /** How the initialiser is laid out: [inputs, outputs], or [outputs, inputs]. */
  readonly layout: 'inputs-first' | 'outputs-first';
}

/** A weight matrix on its way to a product. */
export interface Matrix {
  readonly weight: string;
  /** Whether it was transposed an odd number of times. */
  readonly transposed: boolean;
}

/**
 * The module that a node was made by, as a path of names. PyTorch's exporter writes it into the node's metadata
 * (`pkg.torch.onnx.name_scopes`), the older one into its name (`/blocks.0/attn1/to_q/MatMul`).
 * @returns '' where nothing says so
 */
export function moduleOf(node: NodeProto): string {
  const scopes = node.metadataProps.find(({ key }) => key === 'pkg.torch.onnx.name_scopes')?.value;
  if (scopes !== undefined) {
    // A Python list of strings; the last is the operation, the one before it the module.
    const names = [...scopes.matchAll(/'([^']*)'/g)].map(([, name = '']) => name);
    return names.at(-2) ?? '';
  }
  return node.name.startsWith('/') ? node.name.split('/').slice(1, -1).join('.') : '';
}

/**
 * The name of a layer: that of its weight or of its bias where they kept it, of the node's module otherwise (exporters
 * transpose weights and then call them `onnx::MatMul_123` or `val_184`).
 * @param bias the initialiser that is added to the product, where there is one
 * @param rootModule what all names begin with and layers are called without, when a wrapper was exported
 * @returns '' where nothing says it
 */
export function layerName(
  node: NodeProto,
  weight: string,
  bias: string | undefined,
  rootModule: string,
): string {
  const own = nameOf(weight, '.weight') ?? nameOf(bias, '.bias') ?? moduleOf(node);
  return withoutRoot(own, rootModule);
}

function nameOf(tensor: string | undefined, ending: string): string | undefined {
  return tensor?.endsWith(ending) === true ? tensor.slice(0, -ending.length) : undefined;
}

/** For each product, the initialiser that an Add puts onto it. */
export function biasesOf(graph: GraphProto, isWeight: (name: string) => boolean): Map<string, string> {
  const biases = new Map<string, string>();
  for (const { opType, input } of graph.node) {
    const [a = '', b = ''] = input;
    if (opType !== 'Add' || isWeight(a) === isWeight(b)) continue;
    const [product, bias] = isWeight(b) ? [a, b] : [b, a];
    biases.set(product, bias);
  }
  return biases;
}

/**
 * The module that a node belongs to as far as its weights say it, for exporters that say it in no other way.
 * @returns '' where the node has none, or none with a name of a module
 */
export function moduleOfWeights(node: NodeProto, isWeight: (name: string) => boolean): string {
  for (const name of node.input) {
    const module = isWeight(name) ? /^(.+)\.[^.]+$/.exec(name)?.[1] : undefined;
    if (module !== undefined) return module;
  }
  return '';
}

/** A module's name below the root. */
export function withoutRoot(module: string, rootModule: string): string {
  if (rootModule === '') return module;
  return module.startsWith(`${rootModule}.`) ? module.slice(rootModule.length + 1) : module;
}
