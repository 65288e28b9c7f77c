import type { Tensor } from '@plumb/tensor-graph';
import {
  abs,
  add,
  addAll,
  and,
  cast,
  clip,
  clipByGlobalNorm,
  concat,
  conv,
  convTranspose,
  cos,
  div,
  ema,
  equal,
  erf,
  exp,
  expand,
  gather,
  gatherNd,
  gelu,
  gemm,
  gradients,
  greater,
  greaterOrEqual,
  groupNorm,
  layerNorm,
  less,
  lessOrEqual,
  linear,
  log,
  logSigmoid,
  logSoftmax,
  matMul,
  maximum,
  minimum,
  mul,
  neg,
  not,
  or,
  pad,
  pow,
  reduceMax,
  reduceMean,
  reduceMin,
  reduceSum,
  relu,
  reshape,
  resizeNearest,
  rmsNorm,
  scatterAdd,
  scatterNd,
  sigmoid,
  sign,
  silu,
  sin,
  slice,
  softmax,
  softplus,
  split,
  sqrt,
  square,
  stopGradient,
  sub,
  swapLastAxes,
  tanh,
  transpose,
  where,
} from '@plumb/tensor-graph';
import type { OperatorOptions } from './case-files.ts';

/** Inputs of a case by name. */
export class CaseInputs {
  readonly #tensors: ReadonlyMap<string, Tensor>;

  constructor(tensors: ReadonlyMap<string, Tensor>) {
    this.#tensors = tensors;
  }

  /** @throws TypeError when the case has no such input */
  get(name: string): Tensor {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined) throw new TypeError(`the case has no input ${name}`);
    return tensor;
  }

  find(name: string): Tensor | undefined {
    return this.#tensors.get(name);
  }

  all(): Tensor[] {
    return [...this.#tensors.values()];
  }
}

type Build = (inputs: CaseInputs, options: OperatorOptions) => Tensor | readonly Tensor[];

const unary =
  (operator: (x: Tensor) => Tensor): Build =>
  (inputs) =>
    operator(inputs.get('x'));

const binary =
  (operator: (a: Tensor | number, b: Tensor | number) => Tensor): Build =>
  (inputs, { left, right, both }) =>
    operator(left ?? inputs.get('a'), right ?? inputs.get(both ?? 'b'));

const reduction =
  (operator: typeof reduceSum): Build =>
  (inputs, options) =>
    operator(inputs.get('x'), options);

function needed<T>(value: T | undefined, name: string): T {
  if (value === undefined) throw new TypeError(`the case has no option ${name}`);
  return value;
}

/** How a case of each operator is built, by the name that tensor-graph exports. */
export const operatorBuilders: Readonly<Record<string, Build>> = {
  add: binary(add),
  sub: binary(sub),
  mul: binary(mul),
  div: binary(div),
  pow: binary(pow),
  maximum: binary(maximum),
  minimum: binary(minimum),
  addAll: (inputs) => addAll(inputs.all()),
  neg: unary(neg),
  abs: unary(abs),
  sign: unary(sign),
  exp: unary(exp),
  log: unary(log),
  sqrt: unary(sqrt),
  square: unary(square),
  sin: unary(sin),
  cos: unary(cos),
  tanh: unary(tanh),
  sigmoid: unary(sigmoid),
  softplus: unary(softplus),
  logSigmoid: unary(logSigmoid),
  relu: unary(relu),
  erf: unary(erf),
  silu: unary(silu),
  gelu: (inputs, { approximate }) =>
    gelu(inputs.get('x'), { approximate: needed(approximate, 'approximate') }),
  clip: (inputs, { low, high }) => clip(inputs.get('x'), needed(low, 'low'), needed(high, 'high')),
  equal: binary(equal),
  less: binary(less),
  lessOrEqual: binary(lessOrEqual),
  greater: binary(greater),
  greaterOrEqual: binary(greaterOrEqual),
  and: (inputs) => and(inputs.get('a'), inputs.get('b')),
  or: (inputs) => or(inputs.get('a'), inputs.get('b')),
  not: unary(not),
  where: (inputs) => where(inputs.get('condition'), inputs.get('a'), inputs.get('b')),

  reshape: (inputs, { shape }) => reshape(inputs.get('x'), needed(shape, 'shape')),
  transpose: (inputs, { permutation }) => transpose(inputs.get('x'), permutation),
  swapLastAxes: unary(swapLastAxes),
  expand: (inputs, { shape }) => expand(inputs.get('x'), needed(shape, 'shape')),
  slice: (inputs, { axis, start, end, step }) =>
    slice(inputs.get('x'), needed(axis, 'axis'), needed(start, 'start'), needed(end, 'end'), step),
  concat: (inputs, { axis }) => concat(inputs.all(), needed(axis, 'axis')),
  split: (inputs, { axis, sizes, take }) => {
    const parts = split(inputs.get('x'), needed(axis, 'axis'), needed(sizes, 'sizes'));
    return needed(take, 'take').map((place) => needed(parts[place], `take ${place}`));
  },
  pad: (inputs, { before, after }) => pad(inputs.get('x'), needed(before, 'before'), needed(after, 'after')),
  gather: (inputs, { axis }) => gather(inputs.get('x'), inputs.get('indices'), axis),
  scatterAdd: (inputs, { axis }) =>
    scatterAdd(inputs.get('base'), inputs.get('indices'), inputs.get('updates'), axis),
  gatherNd: (inputs) => gatherNd(inputs.get('x'), inputs.get('indices')),
  scatterNd: (inputs, { add: adds }) =>
    scatterNd(inputs.get('base'), inputs.get('indices'), inputs.get('updates'), { add: needed(adds, 'add') }),
  gatherElements: (inputs, { axis }) => {
    // The gradient of scattered updates is what the loss's gradient holds at their places.
    const x = inputs.get('x');
    const updates = x.graph.filled(0, inputs.get('indices').shape);
    const scattered = scatterAdd(x.graph.filled(0, x.shape), inputs.get('indices'), updates, axis);
    return gradients(reduceSum(mul(scattered, x)), [updates]);
  },
  cast: (inputs, { dtype }) => {
    const there = cast(inputs.get('x'), needed(dtype, 'dtype'));
    return cast(dtype === 'float64' ? square(there) : there, 'float32');
  },
  stopGradient: (inputs) => mul(inputs.get('x'), stopGradient(add(inputs.get('x'), 3))),

  reduceSum: reduction(reduceSum),
  reduceMean: reduction(reduceMean),
  reduceMax: reduction(reduceMax),
  reduceMin: reduction(reduceMin),
  softmax: (inputs, { axis }) => softmax(inputs.get('x'), axis),
  logSoftmax: (inputs, { axis }) => logSoftmax(inputs.get('x'), axis),

  matMul: (inputs, { transposeA, transposeB }) => {
    const [a, b] = [inputs.get('a'), inputs.get('b')];
    return matMul(transposeA === true ? swapLastAxes(a) : a, transposeB === true ? swapLastAxes(b) : b);
  },
  gemm: (inputs, options) => gemm(inputs.get('a'), inputs.get('b'), inputs.find('c'), options),
  linear: (inputs) => linear(inputs.get('x'), inputs.get('weight'), inputs.find('bias')),

  layerNorm: (inputs, options) =>
    layerNorm(inputs.get('x'), inputs.find('scale'), inputs.find('bias'), options),
  rmsNorm: (inputs, options) => rmsNorm(inputs.get('x'), inputs.find('scale'), options),
  groupNorm: (inputs, { groups, ...options }) =>
    groupNorm(inputs.get('x'), needed(groups, 'groups'), inputs.find('scale'), inputs.find('bias'), options),

  conv: (inputs, options) => conv(inputs.get('x'), inputs.get('weight'), inputs.find('bias'), options),
  convTranspose: (inputs, options) =>
    convTranspose(inputs.get('x'), inputs.get('weight'), inputs.find('bias'), options),
  resizeNearest: (inputs, { factors }) => resizeNearest(inputs.get('x'), needed(factors, 'factors')),

  clipByGlobalNorm: (inputs, { limit }) => {
    const { clipped, norm } = clipByGlobalNorm(inputs.all(), needed(limit, 'limit'));
    return [...clipped, norm];
  },
  ema: (inputs, { decay }) => ema(inputs.get('average'), inputs.get('value'), needed(decay, 'decay')),
};
