import type { DType, GraphNode, Tensor } from './graph.ts';
import { sizeOf } from './graph.ts';
import {
  add,
  cos,
  div,
  equal,
  erf,
  exp,
  greater,
  log,
  mul,
  neg,
  pow,
  sigmoid,
  sign,
  sin,
  square,
  sub,
  where,
} from './operators/elementwise.ts';
import { conv, convTranspose, settingsOf } from './operators/convolution.ts';
import {
  cast,
  concat,
  expand,
  gatherNd,
  pad,
  permutationOf,
  reshape,
  scatterAdd,
  scatterNd,
  slice,
  split,
  transpose,
} from './operators/layout.ts';
import { batchedProduct, gemm } from './operators/matrix.ts';
import { layerNorm } from './operators/normalisation.ts';
import { reduceMean, reduceSum } from './operators/reduction.ts';
import { only } from './operators/result.ts';
import { extentAt, sameShape } from './shape.ts';

/** What a rule is given: the node, the gradients of its outputs (undefined is zero), and which inputs need one. */
export interface RuleContext {
  readonly node: GraphNode;
  readonly gradients: readonly (Tensor | undefined)[];
  readonly needs: readonly boolean[];
}

/** Builds the gradients of a node's inputs; undefined for inputs that need none or get none. */
export type GradientRule = (context: RuleContext) => (Tensor | undefined)[];

/** One rule an operator. An operator that is not here cannot be differentiated. */
export const gradientRules = new Map<string, GradientRule>();

/** Dtypes whose data is bits, not numbers. */
const halves: ReadonlySet<DType> = new Set<DType>(['float16', 'bfloat16']);

/** Sums a gradient over the axes along which an operand was broadcast. */
function unbroadcast(gradient: Tensor, shape: readonly number[]): Tensor {
  if (sameShape(gradient.shape, shape)) return gradient;
  const lead = gradient.shape.length - shape.length;
  const axes: number[] = [];
  for (const [axis, extent] of gradient.shape.entries()) {
    if (axis < lead || (shape[axis - lead] === 1 && extent !== 1)) axes.push(axis);
  }
  if (gradient.dtype === 'float32' && axes.every((axis, index) => axis === index)) {
    // Rows are added up by a product with a row of ones: half the time of a reduction, and a sum can be added on the way.
    const rows = sizeOf(gradient.shape.slice(0, axes.length));
    const columns = reshape(gradient, [rows, sizeOf(shape)]);
    return reshape(gemm(gradient.graph.filled(1, [1, rows], gradient.dtype), columns), shape);
  }
  return reshape(reduceSum(gradient, { axes, keepDims: true }), shape);
}

/** A rule of one input, whose gradient is built from the incoming gradient, the input and the output. */
function unaryRule(
  operator: string,
  build: (g: Tensor, x: Tensor, y: Tensor, node: GraphNode) => Tensor,
): void {
  gradientRules.set(operator, ({ node, gradients }) => [
    build(only(gradients), only(node.inputs), only(node.outputs), node),
  ]);
}

/** A rule of two broadcast inputs. */
function binaryRule(
  operator: string,
  left: (g: Tensor, a: Tensor, b: Tensor, y: Tensor) => Tensor,
  right: (g: Tensor, a: Tensor, b: Tensor, y: Tensor) => Tensor,
): void {
  gradientRules.set(operator, ({ node, gradients, needs }) => {
    const [a, b] = node.inputs as readonly [Tensor, Tensor];
    const g = only(gradients);
    const y = only(node.outputs);
    return [
      needs[0] === true ? unbroadcast(left(g, a, b, y), a.shape) : undefined,
      needs[1] === true ? unbroadcast(right(g, a, b, y), b.shape) : undefined,
    ];
  });
}

function attribute(node: GraphNode, name: string): number {
  return Number(node.attributes[name] ?? 0);
}

function list(node: GraphNode, name: string): number[] {
  const value = node.attributes[name];
  return Array.isArray(value) ? value.map(Number) : [];
}

// Elementwise arithmetic.

binaryRule(
  'Add',
  (g) => g,
  (g) => g,
);
binaryRule(
  'Sub',
  (g) => g,
  (g) => neg(g),
);
gradientRules.set('Mul', ({ node, gradients, needs }) => {
  const [a, b] = node.inputs as readonly [Tensor, Tensor];
  const g = only(gradients);
  if (a === b) return [mul(mul(g, a), 2), undefined];
  return [
    needs[0] === true ? unbroadcast(mul(g, b), a.shape) : undefined,
    needs[1] === true ? unbroadcast(mul(g, a), b.shape) : undefined,
  ];
});
binaryRule(
  'Div',
  (g, _a, b) => div(g, b),
  (g, _a, b, y) => neg(div(mul(g, y), b)),
);
binaryRule(
  'Pow',
  (g, a, b) => {
    // A constant exponent is folded here, so that x^2 becomes 2x and not 2 x^1.
    const constant = b.source.kind === 'constant' && sizeOf(b.shape) === 1 && !halves.has(b.dtype);
    const exponent = constant && b.source.kind === 'constant' ? Number(b.source.data[0]) : b;
    const reduced = typeof exponent === 'number' ? pow(a, exponent - 1) : pow(a, sub(exponent, 1));
    return mul(g, mul(exponent, reduced));
  },
  (g, a, _b, y) => mul(mul(g, y), log(a)),
);
gradientRules.set('Sum', ({ node, gradients }) => node.inputs.map(() => only(gradients)));
gradientRules.set('Max', extremumRule);
gradientRules.set('Min', extremumRule);

function scalarLike(like: Tensor, value: number): Tensor {
  return like.graph.scalar(value, like.dtype);
}

function extremumRule({ node, gradients, needs }: RuleContext): (Tensor | undefined)[] {
  const [a, b] = node.inputs as readonly [Tensor, Tensor];
  const g = only(gradients);
  const y = only(node.outputs);
  const half = mul(g, where(equal(a, b), scalarLike(g, 0.5), scalarLike(g, 1)));
  return [a, b].map((x, index) =>
    needs[index] === true ? unbroadcast(where(equal(x, y), half, 0), x.shape) : undefined,
  );
}

// Elementwise functions.

unaryRule('Neg', (g) => neg(g));
unaryRule('Abs', (g, x) => mul(g, sign(x)));
unaryRule('Exp', (g, _x, y) => mul(g, y));
unaryRule('Log', (g, x) => div(g, x));
unaryRule('Sqrt', (g, _x, y) => div(mul(g, 0.5), y));
unaryRule('Sin', (g, x) => mul(g, cos(x)));
unaryRule('Cos', (g, x) => neg(mul(g, sin(x))));
unaryRule('Tanh', (g, _x, y) => mul(g, sub(1, square(y))));
unaryRule('Sigmoid', (g, _x, y) => mul(g, mul(y, sub(1, y))));
unaryRule('Softplus', (g, x) => mul(g, sigmoid(x)));
unaryRule('Relu', (g, _x, y) => where(greater(y, 0), g, 0));
unaryRule('Erf', (g, x) => mul(g, mul(exp(neg(square(x))), 2 / Math.sqrt(Math.PI))));
unaryRule('Gelu', (g, x, _y, node) => mul(g, geluDerivative(x, node.attributes['approximate'] === 'tanh')));
gradientRules.set('Silu', ({ node, gradients }) => {
  const x = only(node.inputs);
  const [y, gate] = node.outputs as readonly [Tensor, Tensor];
  const g = only(gradients);
  // gate + x gate (1 - gate) = gate (1 + x - y)
  return [mul(mul(g, gate), add(sub(x, y), 1))];
});
unaryRule('Clip', (g, x, y) => where(equal(x, y), g, 0));
unaryRule('Identity', (g) => g);
unaryRule('Cast', (g, x) => cast(g, x.dtype));

/** d gelu(x) / dx. */
function geluDerivative(x: Tensor, approximate: boolean): Tensor {
  if (approximate) {
    // y = x (1 + tanh u) / 2 = x sigmoid(2u), with u = sqrt(2 / pi) (x + 0.044715 x^3).
    const scale = 2 * Math.sqrt(2 / Math.PI);
    const squared = square(x);
    const gate = sigmoid(mul(x, add(mul(squared, scale * 0.044715), scale)));
    const slope = mul(x, add(mul(squared, 3 * scale * 0.044715), scale));
    // gate + x gate (1 - gate) (2u)'
    return mul(gate, add(mul(sub(1, gate), slope), 1));
  }
  // Φ(x) + x φ(x)
  const cumulative = add(mul(erf(mul(x, Math.SQRT1_2)), 0.5), 0.5);
  const density = mul(exp(mul(square(x), -0.5)), 1 / Math.sqrt(2 * Math.PI));
  return add(cumulative, mul(x, density));
}

gradientRules.set('Where', ({ node, gradients, needs }) => {
  const [condition, a, b] = node.inputs as readonly [Tensor, Tensor, Tensor];
  const g = only(gradients);
  return [
    undefined,
    needs[1] === true ? unbroadcast(where(condition, g, 0), a.shape) : undefined,
    needs[2] === true ? unbroadcast(where(condition, 0, g), b.shape) : undefined,
  ];
});

// Reductions.

/** The gradient of a reduced value, with the reduced axes back as extent 1. */
function withReducedAxes(gradient: Tensor, x: Tensor, node: GraphNode): Tensor {
  const reduced = new Set(list(node, '_axes'));
  return reshape(
    gradient,
    x.shape.map((extent, axis) => (reduced.has(axis) ? 1 : extent)),
  );
}

unaryRule('ReduceSum', (g, x, _y, node) => expand(withReducedAxes(g, x, node), x.shape));
unaryRule('ReduceMean', (g, x, y, node) => {
  const share = sizeOf(y.shape) / sizeOf(x.shape);
  return expand(mul(withReducedAxes(g, x, node), share), x.shape);
});
unaryRule('ReduceMax', extremeElement);
unaryRule('ReduceMin', extremeElement);

function extremeElement(g: Tensor, x: Tensor, y: Tensor, node: GraphNode): Tensor {
  const chosen = cast(equal(x, withReducedAxes(y, x, node)), x.dtype);
  const count = reduceSum(chosen, { axes: list(node, '_axes'), keepDims: true });
  return mul(chosen, div(withReducedAxes(g, x, node), count));
}

unaryRule('Softmax', (g, _x, y, node) => {
  const axis = attribute(node, 'axis');
  const last = axis === y.shape.length - 1;
  const product = last ? weightedSum(g, y) : undefined;
  const total =
    product === undefined
      ? reduceSum(mul(g, y), { axes: [axis], keepDims: true })
      : reduceSum(product, { axes: [-1], keepDims: true });
  return mul(y, sub(g, total));
});

/**
 * In attention, o = y v gives g = do v', so that the sum over a row of g y is the sum over a row of do o, which is
 * smaller by the ratio of head width to tokens (Dao et al. 2022, section 3.1 and appendix B.4).
 *
 * @returns do o, or undefined where the gradient does not come from such a product
 */
function weightedSum(g: Tensor, y: Tensor): Tensor | undefined {
  if (g.source.kind !== 'node' || g.source.node.operator !== 'BatchedProduct') return undefined;
  const outer = g.source.node;
  const [outgoing, values] = outer.inputs;
  if (outgoing === undefined || attribute(outer, 'transposeA') === 1) return undefined;
  const forward = y.graph.nodes.find(
    (node) =>
      node.operator === 'BatchedProduct' &&
      node.inputs[0] === y &&
      node.inputs[1] === values &&
      attribute(node, 'transposeA') === 0 &&
      attribute(node, 'transposeB') !== attribute(outer, 'transposeB'),
  );
  const attended = forward?.outputs[0];
  if (attended === undefined || !sameShape(attended.shape, outgoing.shape)) return undefined;
  return mul(outgoing, attended);
}

unaryRule('LogSoftmax', (g, _x, y, node) =>
  sub(g, mul(exp(y), reduceSum(g, { axes: [attribute(node, 'axis')], keepDims: true }))),
);

// Layout.

unaryRule('Reshape', (g, x) => reshape(g, x.shape));
unaryRule('Expand', (g, x) => unbroadcast(g, x.shape));
unaryRule('Transpose', (g, _x, y) => {
  const order = permutationOf(y);
  return transpose(
    g,
    order.map((_, axis) => order.indexOf(axis)),
  );
});
unaryRule('Slice', (g, x, _y, node) => {
  const axis = attribute(node, '_axis');
  const start = attribute(node, '_start');
  const step = attribute(node, '_step');
  const extent = extentAt(x.shape, axis);
  const none = x.shape.map(() => 0);
  let spread = g;
  if (step > 1) {
    // Zeros between the elements: a new innermost axis of extent `step` whose first element is the gradient.
    const taken = extentAt(g.shape, axis);
    const column = reshape(g, [...g.shape.slice(0, axis + 1), 1, ...g.shape.slice(axis + 1)]);
    const wide = pad(column, [...none, 0], [...none, 0].with(axis + 1, step - 1));
    const flat = reshape(wide, g.shape.with(axis, taken * step));
    spread = slice(flat, axis, 0, Math.min(taken * step, extent - start));
  }
  const after = extent - start - extentAt(spread.shape, axis);
  return pad(spread, none.with(axis, start), none.with(axis, after));
});
unaryRule('Pad', (g, x, _y, node) =>
  list(node, '_before').reduce((part, before, axis) => {
    return slice(part, axis, before, before + extentAt(x.shape, axis));
  }, g),
);
gradientRules.set('Concat', ({ node, gradients }) => {
  const axis = attribute(node, 'axis');
  return split(
    only(gradients),
    axis,
    node.inputs.map((input) => extentAt(input?.shape ?? [], axis)),
  );
});
gradientRules.set('Split', ({ node, gradients }) => {
  const parts = node.outputs.map(
    (output, index) => gradients[index] ?? output.graph.filled(0, output.shape, output.dtype),
  );
  return [concat(parts, attribute(node, 'axis'))];
});
gradientRules.set('Gather', ({ node, gradients }) => {
  const [x, indices] = node.inputs as readonly [Tensor, Tensor];
  const axis = attribute(node, 'axis');
  const g = only(gradients);
  const zeros = x.graph.filled(0, x.shape, x.dtype);
  const count = sizeOf(indices.shape);
  const shape = x.shape.with(axis, count);
  const positions = reshape(
    indices,
    shape.map((_, index) => (index === axis ? count : 1)),
  );
  // Negative indices count from the end in both operators, so they need no special care.
  return [scatterAdd(zeros, expand(positions, shape), reshape(g, shape), axis), undefined];
});
gradientRules.set('ScatterElements', ({ node, gradients, needs }) => {
  const [, indices] = node.inputs as readonly [Tensor, Tensor, Tensor];
  const g = only(gradients);
  const picked = (): Tensor =>
    only(
      g.graph.apply('GatherElements', [g, indices], [{ dtype: g.dtype, shape: indices.shape }], {
        axis: BigInt(attribute(node, 'axis')),
      }),
    );
  return [g, undefined, needs[2] === true ? picked() : undefined];
});
gradientRules.set('GatherElements', ({ node, gradients }) => {
  const [x, indices] = node.inputs as readonly [Tensor, Tensor];
  const zeros = x.graph.filled(0, x.shape, x.dtype);
  return [scatterAdd(zeros, indices, only(gradients), attribute(node, 'axis')), undefined];
});
gradientRules.set('GatherND', ({ node, gradients }) => {
  const [x, indices] = node.inputs as readonly [Tensor, Tensor];
  const zeros = x.graph.filled(0, x.shape, x.dtype);
  return [scatterNd(zeros, indices, only(gradients), { add: true }), undefined];
});
gradientRules.set('ScatterND', ({ node, gradients, needs }) => {
  const [, indices, updates] = node.inputs as readonly [Tensor, Tensor, Tensor];
  const g = only(gradients);
  // Replaced elements have no part in the result.
  const kept = (): Tensor => scatterNd(g, indices, g.graph.filled(0, updates.shape, g.dtype));
  return [
    needs[0] === true ? (node.attributes['reduction'] === 'add' ? g : kept()) : undefined,
    undefined,
    needs[2] === true ? gatherNd(g, indices) : undefined,
  ];
});

// Products.

gradientRules.set('Gemm', ({ node, gradients, needs }) => {
  const [a, b, c] = node.inputs as readonly [Tensor, Tensor, Tensor | undefined];
  const g = only(gradients);
  const ta = attribute(node, 'transA') === 1;
  const tb = attribute(node, 'transB') === 1;
  const left = (): Tensor =>
    ta
      ? gemm(b, g, undefined, { transposeA: tb, transposeB: true })
      : gemm(g, b, undefined, { transposeB: !tb });
  const right = (): Tensor =>
    tb
      ? gemm(g, a, undefined, { transposeA: true, transposeB: ta })
      : gemm(a, g, undefined, { transposeA: !ta });
  return [
    needs[0] === true ? left() : undefined,
    needs[1] === true ? right() : undefined,
    needs[2] === true && c !== undefined ? unbroadcast(g, c.shape) : undefined,
  ];
});
gradientRules.set('BatchedProduct', ({ node, gradients, needs }) => {
  const [a, b] = node.inputs as readonly [Tensor, Tensor];
  const g = only(gradients);
  const ta = attribute(node, 'transposeA') === 1;
  const tb = attribute(node, 'transposeB') === 1;
  const left = (): Tensor => (ta ? batchedProduct(b, g, tb, true) : batchedProduct(g, b, false, !tb));
  const right = (): Tensor => (tb ? batchedProduct(g, a, true, ta) : batchedProduct(a, g, !ta, false));
  return [
    needs[0] === true ? unbroadcast(left(), a.shape) : undefined,
    needs[1] === true ? unbroadcast(right(), b.shape) : undefined,
  ];
});

// Normalisation.

gradientRules.set('LayerNormalization', ({ node, gradients, needs }) => {
  const [x, scale, bias] = node.inputs as readonly [Tensor, Tensor, Tensor | undefined];
  const g = gradients[0];
  const inverseDeviation = node.outputs[2];
  if (g === undefined || inverseDeviation === undefined) return [];
  const plain = scale.source.kind === 'constant' && scale.source.data.every((value) => value === 1);
  // With scale and bias, the normalised input is computed once more: cheaper than undoing them.
  const normal =
    plain && bias === undefined
      ? only(node.outputs)
      : layerNorm(x, undefined, undefined, { epsilon: attribute(node, 'epsilon') });
  const features = scale.shape;
  const rows = { axes: [-1], keepDims: true };
  const inward = (): Tensor => {
    const scaled = plain ? g : mul(g, scale);
    // (g - mean(g) - normal mean(g normal)) / deviation
    const along = mul(normal, reduceMean(mul(scaled, normal), rows));
    return mul(sub(sub(scaled, reduceMean(scaled, rows)), along), inverseDeviation);
  };
  return [
    needs[0] === true ? inward() : undefined,
    needs[1] === true ? unbroadcast(mul(g, normal), features) : undefined,
    needs[2] === true ? unbroadcast(g, features) : undefined,
  ];
});

// Convolution.

/** Sum over everything but channels. */
function biasGradient(g: Tensor): Tensor {
  return reduceSum(g, { axes: g.shape.map((_, axis) => axis).filter((axis) => axis !== 1) });
}

/**
 * The gradient of a convolution's weight: a convolution of `x` with `g` in which samples play the part of channels, and
 * strides and dilations change places.
 *
 * @param x what the kernel slid over, [batch, groups * c, ...]
 * @param g what it made, [batch, groups * o, ...]
 * @returns [groups * o, c, ...kernel]
 */
function kernelGradient(
  x: Tensor,
  g: Tensor,
  kernel: readonly number[],
  settings: ReturnType<typeof settingsOf>,
): Tensor {
  const { groups, strides, dilations, padding } = settings;
  const swap = x.shape.map((_, axis) => (axis < 2 ? 1 - axis : axis));
  const perGroup = Array.from({ length: groups }, (_, group) => {
    const part = (t: Tensor): Tensor => {
      const size = extentAt(t.shape, 1) / groups;
      return transpose(slice(t, 1, group * size, (group + 1) * size), swap);
    };
    // [c, o, ...]: extents beyond the kernel come from input that a stride left over.
    const full = conv(part(x), part(g), undefined, { strides: dilations, dilations: strides, padding });
    const cropped = kernel.reduce((t, extent, axis) => slice(t, axis + 2, 0, extent), full);
    return transpose(cropped, swap);
  });
  return concat(perGroup, 0);
}

gradientRules.set('Conv', ({ node, gradients, needs }) => {
  const [x, weight] = node.inputs as readonly [Tensor, Tensor];
  const g = only(gradients);
  const settings = settingsOf(node.attributes);
  const kernel = weight.shape.slice(2);
  const inward = (): Tensor => {
    // What a stride left over at the end of an axis is made up for by output padding.
    const outputPadding = x.shape.slice(2).map((extent, axis) => {
      const reach = (settings.dilations[axis] ?? 1) * ((kernel[axis] ?? 1) - 1) + 1;
      const covered = (settings.strides[axis] ?? 1) * (extentAt(g.shape, axis + 2) - 1) + reach;
      return extent + 2 * (settings.padding[axis] ?? 0) - covered;
    });
    return convTranspose(g, weight, undefined, { ...settings, outputPadding });
  };
  return [
    needs[0] === true ? inward() : undefined,
    needs[1] === true ? kernelGradient(x, g, kernel, settings) : undefined,
    needs[2] === true ? biasGradient(g) : undefined,
  ];
});
gradientRules.set('ConvTranspose', ({ node, gradients, needs }) => {
  const [x, weight] = node.inputs as readonly [Tensor, Tensor];
  const g = only(gradients);
  const settings = settingsOf(node.attributes);
  const { strides, padding, dilations, groups } = settings;
  return [
    needs[0] === true ? conv(g, weight, undefined, { strides, padding, dilations, groups }) : undefined,
    // The kernel slides over the result here, and the input is what it makes.
    needs[1] === true ? kernelGradient(g, x, weight.shape.slice(2), settings) : undefined,
    needs[2] === true ? biasGradient(g) : undefined,
  ];
});
