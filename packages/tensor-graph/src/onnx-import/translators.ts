import { isFloat, sizeOf } from '../graph.ts';
import type { DType, Tensor } from '../graph.ts';
import { conv, convTranspose, resizeNearest } from '../operators/convolution.ts';
import {
  abs,
  add,
  addAll,
  and,
  clip,
  cos,
  div,
  equal,
  erf,
  exp,
  gelu,
  greater,
  greaterOrEqual,
  less,
  lessOrEqual,
  log,
  maximum,
  minimum,
  mul,
  neg,
  not,
  or,
  pow,
  relu,
  sigmoid,
  sign,
  sin,
  softplus,
  sqrt,
  square,
  sub,
  tanh,
  where,
} from '../operators/elementwise.ts';
import {
  cast,
  concat,
  expand,
  gather,
  gatherNd,
  pad,
  reshape,
  scatterAdd,
  scatterNd,
  slice,
  split,
  swapLastAxes,
  transpose,
} from '../operators/layout.ts';
import { gemm, matMul } from '../operators/matrix.ts';
import { groupNorm, layerNorm, rmsNorm } from '../operators/normalisation.ts';
import { logSoftmax, reduceMax, reduceMean, reduceMin, reduceSum, softmax } from '../operators/reduction.ts';
import { broadcastShapes, extentAt, sameShape } from '../shape.ts';
import { einsum } from './einsum.ts';
import { dtypeOfElement } from './model-file.ts';
import type { NodeContext } from './node-context.ts';

/** Builds what a node computes, of operators that can be differentiated where there are such. */
export type Translator = (context: NodeContext) => Tensor | readonly Tensor[];

const unary =
  (build: (x: Tensor) => Tensor): Translator =>
  (c) =>
    build(c.input(0));
const binary =
  (build: (a: Tensor, b: Tensor) => Tensor): Translator =>
  (c) =>
    build(c.input(0), c.input(1));
/** Any number of inputs. */
const variadic =
  (build: (a: Tensor, b: Tensor) => Tensor): Translator =>
  (c) =>
    c.inputs.slice(1).reduce<Tensor>((all, _, index) => build(all, c.input(index + 1)), c.input(0));
/** No gradient, the same shape and dtype. */
const plain: Translator = (c) => c.same([c.input(0)], c.input(0).shape, c.input(0).dtype);

/** One translator an operator. */
export const translators: ReadonlyMap<string, Translator> = new Map<string, Translator>([
  ['Abs', unary(abs)],
  ['Cos', unary(cos)],
  ['Erf', unary(erf)],
  ['Exp', unary(exp)],
  ['Log', unary(log)],
  ['Neg', unary(neg)],
  ['Not', unary(not)],
  ['Relu', unary(relu)],
  ['Sigmoid', unary(sigmoid)],
  ['Sign', unary(sign)],
  ['Sin', unary(sin)],
  ['Softplus', unary(softplus)],
  ['Sqrt', unary(sqrt)],
  ['Tanh', unary(tanh)],
  ['Reciprocal', unary((x) => div(1, x))],
  ['Identity', unary((x) => x)],
  // Inference: dropout does nothing.
  ['Dropout', unary((x) => x)],
  ['HardSwish', unary((x) => mul(x, clip(add(mul(x, 1 / 6), 0.5), 0, 1)))],
  ['HardSigmoid', (c) => clip(add(mul(c.input(0), c.float('alpha', 0.2)), c.float('beta', 0.5)), 0, 1)],
  ['Mish', unary((x) => mul(x, tanh(softplus(x))))],
  ['LeakyRelu', (c) => where(less(c.input(0), 0), mul(c.input(0), c.float('alpha', 0.01)), c.input(0))],
  [
    'Elu',
    (c) => {
      const x = c.input(0);
      const negative = mul(sub(exp(minimum(x, 0)), 1), c.float('alpha', 1));
      return where(less(x, 0), negative, x);
    },
  ],
  [
    'Gelu',
    (c) => gelu(c.input(0), { approximate: c.text('approximate', 'none') === 'tanh' ? 'tanh' : 'none' }),
  ],
  ['Floor', plain],
  ['Ceil', plain],
  ['Round', plain],
  ['Trilu', trilu],

  ['Add', binary(add)],
  ['Sub', binary(sub)],
  ['Mul', binary(mul)],
  ['Div', binary(div)],
  ['Pow', (c) => power(c.input(0), c.input(1))],
  ['Mod', (c) => c.same([c.input(0), c.input(1)], joint(c), c.input(0).dtype)],
  ['And', binary(and)],
  ['Or', binary(or)],
  ['Equal', (c) => compared(c, equal)],
  ['Less', binary(less)],
  ['LessOrEqual', binary(lessOrEqual)],
  ['Greater', binary(greater)],
  ['GreaterOrEqual', binary(greaterOrEqual)],
  ['Max', variadic(maximum)],
  ['Min', variadic(minimum)],
  ['Sum', variadic(add)],
  ['Mean', (c) => mul(addAll(c.inputs.map((_, index) => c.input(index))), 1 / c.inputs.length)],
  ['Where', (c) => where(c.input(0), c.input(1), c.input(2))],
  ['Clip', clipped],
  ['Cast', (c) => cast(c.input(0), castTarget(c))],
  ['CastLike', (c) => cast(c.input(0), c.input(1).dtype)],

  ['Reshape', reshaped],
  [
    'Flatten',
    (c) => {
      const x = c.input(0);
      const axis = c.integer('axis', 1);
      const at = axis < 0 ? axis + x.shape.length : axis;
      return reshape(x, [sizeOf(x.shape.slice(0, at)), sizeOf(x.shape.slice(at))]);
    },
  ],
  [
    'Squeeze',
    (c) => {
      const x = c.input(0);
      const axes = c.axes(1)?.map((axis) => c.axisOf(x, axis));
      return reshape(
        x,
        x.shape.filter((extent, axis) => (axes === undefined ? extent !== 1 : !axes.includes(axis))),
      );
    },
  ],
  ['Unsqueeze', unsqueezed],
  ['Transpose', (c) => transpose(c.input(0), c.integers('perm'))],
  ['Expand', (c) => expand(c.input(0), broadcastShapes('Expand', c.input(0).shape, c.numbers(1) ?? []))],
  ['Tile', tiled],
  ['Slice', sliced],
  [
    'Concat',
    (c) =>
      concat(
        c.inputs.map((_, index) => c.input(index)),
        c.integer('axis', 0),
      ),
  ],
  ['Split', splitUp],
  ['Pad', padded],
  ['Gather', (c) => gather(c.input(0), c.input(1), c.integer('axis', 0))],
  [
    'GatherElements',
    (c) => {
      const axis = BigInt(c.axisOf(c.input(0), c.integer('axis', 0)));
      const type = { dtype: c.input(0).dtype, shape: c.input(1).shape };
      return c.graph.apply('GatherElements', [c.input(0), c.input(1)], [type], { axis });
    },
  ],
  [
    'GatherND',
    (c) => {
      if (c.integer('batch_dims', 0) !== 0) throw c.unsupported('has batch_dims; only 0 is supported');
      return gatherNd(c.input(0), c.input(1));
    },
  ],
  ['ScatterND', scatteredNd],
  [
    'ScatterElements',
    (c) => {
      if (c.text('reduction', 'none') !== 'add') {
        throw c.unsupported(`has reduction ${c.text('reduction', 'none')}; only add is supported`);
      }
      return scatterAdd(c.input(0), c.input(1), c.input(2), c.integer('axis', 0));
    },
  ],
  ['DepthToSpace', depthToSpace],
  ['SpaceToDepth', spaceToDepth],
  ['Resize', resized],

  ['MatMul', matrixProduct],
  ['Gemm', gemmOf],
  ['Einsum', (c) => einsum(c, c.text('equation', ''))],
  ['Conv', convolution],
  ['ConvTranspose', transposedConvolution],
  ['GlobalAveragePool', unary((x) => reduceMean(x, { axes: spatialAxes(x), keepDims: true }))],

  ['LayerNormalization', layerNormalisation],
  ['SimplifiedLayerNormalization', rmsNormalisation],
  ['RMSNormalization', rmsNormalisation],
  ['GroupNormalization', groupNormalisation],
  [
    'InstanceNormalization',
    (c) =>
      groupNorm(c.input(0), extentAt(c.input(0).shape, 1), c.input(1), c.input(2), {
        epsilon: c.float('epsilon', 1e-5),
      }),
  ],
  ['BatchNormalization', batchNormalisation],
  ['LpNormalization', lpNormalisation],
  ['Attention', attention],
  ['RotaryEmbedding', rotaryEmbedding],

  ['Softmax', (c) => softmax(c.input(0), c.integer('axis', -1))],
  ['LogSoftmax', (c) => logSoftmax(c.input(0), c.integer('axis', -1))],
  ['ReduceSum', reduced(reduceSum)],
  ['ReduceMean', reduced(reduceMean)],
  ['ReduceMax', reduced(reduceMax)],
  ['ReduceMin', reduced(reduceMin)],
  ['ReduceSumSquare', reduced((x, options) => reduceSum(square(x), options))],
  ['ReduceL2', reduced((x, options) => sqrt(reduceSum(square(x), options)))],
  ['ReduceL1', reduced((x, options) => reduceSum(abs(x), options))],
]);

/** The shape that a node's first two inputs have together. */
function joint(c: NodeContext): number[] {
  return broadcastShapes(c.node.opType, c.input(0).shape, c.input(1).shape);
}

/** ONNX compares bools too. */
function compared(c: NodeContext, compare: (a: Tensor, b: Tensor) => Tensor): Tensor {
  const [a, b] = [c.input(0), c.input(1)];
  return a.dtype === 'bool' ? compare(cast(a, 'int32'), cast(b, 'int32')) : compare(a, b);
}

/** The exponent may have another dtype than the base. */
function power(base: Tensor, exponent: Tensor): Tensor {
  const { source, shape, dtype } = exponent;
  if (source.kind === 'constant' && sizeOf(shape) === 1 && !dtype.endsWith('16')) {
    const value = Number(source.data[0]);
    if (value === 0.5) return sqrt(base);
    if (shape.length <= base.shape.length && [1, 2].includes(value)) return pow(base, value);
  }
  return pow(base, cast(exponent, base.dtype));
}

function castTarget(c: NodeContext): DType {
  const to = c.integer('to', 0);
  const dtype = dtypeOfElement(to);
  if (dtype === undefined) throw c.unsupported(`casts to ONNX element type ${to}`);
  return c.readAs.get(dtype) ?? dtype;
}

function clipped(c: NodeContext): Tensor {
  const x = c.input(0);
  const low = c.inputs[1] === undefined ? -Infinity : c.numbers(1)?.[0];
  const high = c.inputs[2] === undefined ? Infinity : c.numbers(2)?.[0];
  return clip(x, low ?? -Infinity, high ?? Infinity);
}

function reshaped(c: NodeContext): Tensor {
  const x = c.input(0);
  const copiesZero = c.integer('allowzero', 0) === 0;
  const target = (c.numbers(1) ?? []).map((extent, axis) =>
    extent === 0 && copiesZero ? extentAt(x.shape, axis) : extent,
  );
  return reshape(x, target);
}

function unsqueezed(c: NodeContext): Tensor {
  const x = c.input(0);
  const axes = c.axes(1) ?? [];
  const rank = x.shape.length + axes.length;
  const added = new Set(axes.map((axis) => (axis < 0 ? axis + rank : axis)));
  const rest = [...x.shape];
  return reshape(
    x,
    Array.from({ length: rank }, (_, axis) => (added.has(axis) ? 1 : (rest.shift() ?? 1))),
  );
}

function tiled(c: NodeContext): Tensor {
  const x = c.input(0);
  const repeats = c.numbers(1) ?? [];
  // Repeating an axis is broadcasting a new one before it.
  const apart = x.shape.flatMap((extent) => [1, extent]);
  const wide = x.shape.flatMap((extent, axis) => [repeats[axis] ?? 1, extent]);
  return reshape(
    expand(reshape(x, apart), wide),
    x.shape.map((extent, axis) => extent * (repeats[axis] ?? 1)),
  );
}

function sliced(c: NodeContext): Tensor {
  let x = c.input(0);
  const starts = c.numbers(1) ?? [];
  const ends = c.numbers(2) ?? [];
  const axes = c.numbers(3) ?? starts.map((_, index) => index);
  const steps = c.numbers(4) ?? starts.map(() => 1);
  for (const [index, axis] of axes.entries()) {
    const at = c.axisOf(x, axis);
    const extent = extentAt(x.shape, at);
    const step = steps[index] ?? 1;
    const within = (value: number, low: number, high: number): number =>
      Math.min(Math.max(value < 0 ? value + extent : value, low), high);
    if (step > 0) {
      const start = within(starts[index] ?? 0, 0, extent);
      const end = Math.max(start, within(ends[index] ?? extent, 0, extent));
      x = slice(x, at, start, end, step);
    } else {
      // Backwards: bounds are clamped to [-1, extent - 1], and -1 is the place before the first element.
      const start = within(starts[index] ?? 0, 0, extent - 1);
      const raw = ends[index] ?? 0;
      const end = raw < -extent ? -1 : within(raw, -1, extent - 1);
      const places: number[] = [];
      for (let place = start; place > end; place += step) places.push(place);
      x = gather(x, c.graph.integers(places), at);
    }
  }
  return x;
}

function splitUp(c: NodeContext): readonly Tensor[] {
  const x = c.input(0);
  const axis = c.axisOf(x, c.integer('axis', 0));
  const extent = extentAt(x.shape, axis);
  const parts = c.integer('num_outputs', c.node.output.length);
  const even = Math.ceil(extent / parts);
  const sizes =
    c.numbers(1) ??
    Array.from({ length: parts }, (_, part) => Math.min(even, extent - Math.min(extent, part * even)));
  return split(x, axis, sizes);
}

function padded(c: NodeContext): Tensor {
  const x = c.input(0);
  const pads = c.integers('pads') ?? c.numbers(1) ?? [];
  const axes = c.numbers(3)?.map((axis) => c.axisOf(x, axis)) ?? x.shape.map((_, axis) => axis);
  const before = x.shape.map(() => 0);
  const after = x.shape.map(() => 0);
  for (const [index, axis] of axes.entries()) {
    before[axis] = pads[index] ?? 0;
    after[axis] = pads[index + axes.length] ?? 0;
  }
  // Negative numbers cut off.
  let cut = x;
  for (const axis of axes) {
    const first = Math.max(0, -(before[axis] ?? 0));
    const last = extentAt(x.shape, axis) - Math.max(0, -(after[axis] ?? 0));
    cut = slice(cut, axis, first, last);
  }
  const more = (counts: readonly number[]): number[] => counts.map((count) => Math.max(0, count));
  const mode = c.text('mode', 'constant');
  if (mode === 'constant') {
    const value = c.numbers(2)?.[0] ?? 0;
    const wide = pad(cut, more(before), more(after));
    if (value === 0) return wide;
    const ones = c.graph.filled(1, cut.shape, x.dtype);
    return add(wide, mul(sub(1, pad(ones, more(before), more(after))), value));
  }
  // Other modes repeat elements of the tensor itself.
  for (const axis of axes) {
    const extent = extentAt(cut.shape, axis);
    const [low, high] = [more(before)[axis] ?? 0, more(after)[axis] ?? 0];
    if (low === 0 && high === 0) continue;
    const places = Array.from({ length: low + extent + high }, (_, index) =>
      sourceOf(c, mode, index - low, extent),
    );
    cut = gather(cut, c.graph.integers(places), axis);
  }
  return cut;
}

/** Where padding outside of an axis takes its element from. */
function sourceOf(c: NodeContext, mode: string, place: number, extent: number): number {
  switch (mode) {
    case 'edge':
      return Math.min(Math.max(place, 0), extent - 1);
    case 'wrap':
      return ((place % extent) + extent) % extent;
    case 'reflect': {
      const period = Math.max(2 * (extent - 1), 1);
      const inside = ((place % period) + period) % period;
      return inside < extent ? inside : period - inside;
    }
    default:
      throw c.unsupported(`pads in mode ${mode}`);
  }
}

function scatteredNd(c: NodeContext): Tensor {
  const reduction = c.text('reduction', 'none');
  if (reduction !== 'none' && reduction !== 'add') throw c.unsupported(`has reduction ${reduction}`);
  return scatterNd(c.input(0), c.input(1), c.input(2), { add: reduction === 'add' });
}

function depthToSpace(c: NodeContext): Tensor {
  const x = c.input(0);
  const size = c.integer('blocksize', 1);
  const [batch = 0, channels = 0, rows = 0, columns = 0] = x.shape;
  const kept = channels / size ** 2;
  const [apart, order] =
    c.text('mode', 'DCR') === 'CRD'
      ? [
          [batch, kept, size, size, rows, columns],
          [0, 1, 4, 2, 5, 3],
        ]
      : [
          [batch, size, size, kept, rows, columns],
          [0, 3, 4, 1, 5, 2],
        ];
  return reshape(transpose(reshape(x, apart), order), [batch, kept, rows * size, columns * size]);
}

function spaceToDepth(c: NodeContext): Tensor {
  const x = c.input(0);
  const size = c.integer('blocksize', 1);
  const [batch = 0, channels = 0, rows = 0, columns = 0] = x.shape;
  const apart = reshape(x, [batch, channels, rows / size, size, columns / size, size]);
  return reshape(transpose(apart, [0, 3, 5, 1, 2, 4]), [
    batch,
    channels * size ** 2,
    rows / size,
    columns / size,
  ]);
}

function resized(c: NodeContext): Tensor {
  const x = c.input(0);
  const mode = c.text('mode', 'nearest');
  if (mode !== 'nearest') throw c.unsupported(`resizes in mode ${mode}; only nearest is supported`);
  const rank = x.shape.length;
  const axes = c.integers('axes')?.map((axis) => c.axisOf(x, axis)) ?? x.shape.map((_, axis) => axis);
  const sizes = c.numbers(3);
  const given = c.inputs[2] === undefined || sizeOf(c.input(2).shape) === 0 ? undefined : c.numbers(2);
  const extents = [...x.shape];
  const scales = x.shape.map(() => 1);
  for (const [index, axis] of axes.entries()) {
    const extent = extentAt(x.shape, axis);
    extents[axis] = sizes?.[index] ?? Math.floor(extent * (given?.[index] ?? 1));
    scales[axis] = given?.[index] ?? (extents[axis] ?? 1) / extent;
  }
  const place = nearestPlace(c);
  const placesOf = (axis: number): number[] =>
    Array.from({ length: extents[axis] ?? 0 }, (_, index) =>
      Math.min(
        Math.max(place(index, scales[axis] ?? 1, extentAt(x.shape, axis), extents[axis] ?? 1), 0),
        extentAt(x.shape, axis) - 1,
      ),
    );
  const whole = x.shape.map((extent, axis) => (extents[axis] ?? 0) / extent);
  const repeats = whole.every(
    (factor, axis) =>
      Number.isInteger(factor) &&
      placesOf(axis).every((source, index) => source === Math.floor(index / factor)),
  );
  // Repeating has a cheaper gradient than picking.
  if (repeats && rank > 2 && whole[0] === 1 && whole[1] === 1) return resizeNearest(x, whole.slice(2));
  let result = x;
  for (const axis of axes) {
    const places = placesOf(axis);
    if (places.some((source, index) => source !== index) || places.length !== extentAt(x.shape, axis)) {
      result = gather(result, c.graph.integers(places), axis);
    }
  }
  return result;
}

/** The element that nearest resizing takes for a place of the result. */
function nearestPlace(c: NodeContext): (index: number, scale: number, from: number, to: number) => number {
  const transformation = c.text('coordinate_transformation_mode', 'half_pixel');
  const rounding = c.text('nearest_mode', 'round_prefer_floor');
  const coordinate = (index: number, scale: number, from: number, to: number): number => {
    switch (transformation) {
      case 'asymmetric':
        return index / scale;
      case 'half_pixel':
        return (index + 0.5) / scale - 0.5;
      case 'pytorch_half_pixel':
        return to > 1 ? (index + 0.5) / scale - 0.5 : 0;
      case 'align_corners':
        return to > 1 ? (index * (from - 1)) / (to - 1) : 0;
      default:
        throw c.unsupported(`resizes with coordinate_transformation_mode ${transformation}`);
    }
  };
  return (index, scale, from, to) => {
    const at = coordinate(index, scale, from, to);
    switch (rounding) {
      case 'floor':
        return Math.floor(at);
      case 'ceil':
        return Math.ceil(at);
      case 'round_prefer_ceil':
        return Math.floor(at + 0.5);
      case 'round_prefer_floor':
        return Math.ceil(at - 0.5);
      default:
        throw c.unsupported(`resizes with nearest_mode ${rounding}`);
    }
  };
}

function matrixProduct(c: NodeContext): Tensor {
  const [a, b] = [c.input(0), c.input(1)];
  const row = a.shape.length === 1;
  const column = b.shape.length === 1;
  const product = matMul(row ? reshape(a, [1, -1]) : a, column ? reshape(b, [-1, 1]) : b);
  if (!row && !column) return product;
  const shape = product.shape.filter(
    (_, axis) =>
      !(row && axis === product.shape.length - 2) && !(column && axis === product.shape.length - 1),
  );
  return reshape(product, shape);
}

function gemmOf(c: NodeContext): Tensor {
  const alpha = c.float('alpha', 1);
  const beta = c.float('beta', 1);
  const bias = c.inputs[2];
  const options = {
    transposeA: c.integer('transA', 0) === 1,
    transposeB: c.integer('transB', 0) === 1,
  };
  if (alpha === 1 && (bias === undefined || beta === 1)) return gemm(c.input(0), c.input(1), bias, options);
  const product = mul(gemm(c.input(0), c.input(1), undefined, options), alpha);
  return bias === undefined ? product : add(product, mul(bias, beta));
}

function spatialAxes(x: Tensor): number[] {
  return x.shape.map((_, axis) => axis).slice(2);
}

/** Padding before and after each spatial axis of a convolution. */
function convolutionPads(c: NodeContext, x: Tensor, kernel: readonly number[]): [number[], number[]] {
  const count = kernel.length;
  const mode = c.text('auto_pad', 'NOTSET');
  if (mode === 'VALID') return [kernel.map(() => 0), kernel.map(() => 0)];
  if (mode === 'SAME_UPPER' || mode === 'SAME_LOWER') {
    const totals = kernel.map((extent, axis) => {
      const stride = c.integers('strides')?.[axis] ?? 1;
      const reach = (c.integers('dilations')?.[axis] ?? 1) * (extent - 1) + 1;
      const size = extentAt(x.shape, axis + 2);
      return Math.max((Math.ceil(size / stride) - 1) * stride + reach - size, 0);
    });
    const small = totals.map((total) => Math.floor(total / 2));
    const large = totals.map((total) => Math.ceil(total / 2));
    return mode === 'SAME_UPPER' ? [small, large] : [large, small];
  }
  const pads = c.integers('pads') ?? Array.from({ length: 2 * count }, () => 0);
  return [pads.slice(0, count), pads.slice(count)];
}

function convolution(c: NodeContext): Tensor {
  const [x, weight] = [c.input(0), c.input(1)];
  const kernel = weight.shape.slice(2);
  const [before, after] = convolutionPads(c, x, kernel);
  const options = {
    strides: c.integers('strides') ?? kernel.map(() => 1),
    dilations: c.integers('dilations') ?? kernel.map(() => 1),
    groups: c.integer('group', 1),
  };
  if (sameShape(before, after)) return conv(x, weight, c.inputs[2], { ...options, padding: before });
  return conv(pad(x, [0, 0, ...before], [0, 0, ...after]), weight, c.inputs[2], options);
}

function transposedConvolution(c: NodeContext): Tensor {
  const [x, weight] = [c.input(0), c.input(1)];
  const kernel = weight.shape.slice(2);
  if (c.has('output_shape') || !['NOTSET', 'VALID'].includes(c.text('auto_pad', 'NOTSET'))) {
    throw c.unsupported('has output_shape or auto_pad; give its pads as numbers');
  }
  const [before, after] = convolutionPads(c, x, kernel);
  const options = {
    strides: c.integers('strides') ?? kernel.map(() => 1),
    dilations: c.integers('dilations') ?? kernel.map(() => 1),
    outputPadding: c.integers('output_padding') ?? kernel.map(() => 0),
    groups: c.integer('group', 1),
  };
  if (sameShape(before, after)) return convTranspose(x, weight, c.inputs[2], { ...options, padding: before });
  return kernel.reduce(
    (y, _, axis) => slice(y, axis + 2, before[axis] ?? 0, extentAt(y.shape, axis + 2) - (after[axis] ?? 0)),
    convTranspose(x, weight, c.inputs[2], options),
  );
}

/** The last axes from `axis` as one. */
function rowsFrom(x: Tensor, axis: number): Tensor {
  return reshape(x, [...x.shape.slice(0, axis), sizeOf(x.shape.slice(axis))]);
}

function flat(x: Tensor | undefined): Tensor | undefined {
  return x === undefined ? undefined : reshape(x, [-1]);
}

function layerNormalisation(c: NodeContext): Tensor {
  const x = c.input(0);
  const axis = c.axisOf(x, c.integer('axis', -1));
  const normal = layerNorm(rowsFrom(x, axis), flat(c.inputs[1]), flat(c.inputs[2]), {
    epsilon: c.float('epsilon', 1e-5),
  });
  return reshape(normal, x.shape);
}

function rmsNormalisation(c: NodeContext): Tensor {
  const x = c.input(0);
  const axis = c.axisOf(x, c.integer('axis', -1));
  const normal = rmsNorm(rowsFrom(x, axis), flat(c.inputs[1]), { epsilon: c.float('epsilon', 1e-5) });
  return reshape(normal, x.shape);
}

function groupNormalisation(c: NodeContext): Tensor {
  const x = c.input(0);
  const groups = c.integer('num_groups', 1);
  const channels = extentAt(x.shape, 1);
  // Before operator set 21, scale and bias are one number a group.
  const perChannel = (tensor: Tensor): Tensor =>
    extentAt(tensor.shape, 0) === channels
      ? tensor
      : reshape(expand(reshape(tensor, [groups, 1]), [groups, channels / groups]), [channels]);
  return groupNorm(x, groups, perChannel(c.input(1)), perChannel(c.input(2)), {
    epsilon: c.float('epsilon', 1e-5),
  });
}

function batchNormalisation(c: NodeContext): Tensor {
  if (c.integer('training_mode', 0) === 1) {
    throw c.unsupported('is in training mode; export the model after model.eval()');
  }
  const x = c.input(0);
  const perChannel = (tensor: Tensor): Tensor =>
    reshape(tensor, [extentAt(x.shape, 1), ...x.shape.slice(2).map(() => 1)]);
  const factor = div(c.input(1), sqrt(add(c.input(4), c.float('epsilon', 1e-5))));
  return add(mul(sub(x, perChannel(c.input(3))), perChannel(factor)), perChannel(c.input(2)));
}

function lpNormalisation(c: NodeContext): Tensor {
  const x = c.input(0);
  const axes = [c.axisOf(x, c.integer('axis', -1))];
  const norm =
    c.integer('p', 2) === 1
      ? reduceSum(abs(x), { axes, keepDims: true })
      : sqrt(reduceSum(square(x), { axes, keepDims: true }));
  return div(x, norm);
}

function reduced(
  build: (x: Tensor, options: { axes: readonly number[]; keepDims: boolean }) => Tensor,
): Translator {
  return (c) => {
    const x = c.input(0);
    const axes = c.axes(1) ?? [];
    const keepDims = c.integer('keepdims', 1) === 1;
    if (axes.length === 0 && c.integer('noop_with_empty_axes', 0) === 1) return x;
    const all = x.shape.map((_, axis) => axis);
    const normal = axes.length === 0 ? all : axes.map((axis) => c.axisOf(x, axis));
    if (isFloat(x.dtype)) return build(x, { axes: normal, keepDims });
    // Integers have no gradient.
    const shape = x.shape.flatMap((extent, axis) => {
      if (!normal.includes(axis)) return [extent];
      return keepDims ? [1] : [];
    });
    return c.graph.apply(c.node.opType, [x, c.graph.integers(normal)], [{ dtype: x.dtype, shape }], {
      keepdims: keepDims ? 1n : 0n,
    });
  };
}

function trilu(c: NodeContext): Tensor {
  const x = c.input(0);
  const k = c.numbers(1)?.[0] ?? 0;
  const upper = c.integer('upper', 1) === 1;
  const [rows, columns] = [extentAt(x.shape, -2), extentAt(x.shape, -1)];
  const mask = Uint8Array.from({ length: rows * columns }, (_, index) => {
    const past = (index % columns) - Math.floor(index / columns) - k;
    return (upper ? past >= 0 : past <= 0) ? 1 : 0;
  });
  return where(c.graph.constant(mask, [rows, columns]), x, c.graph.filled(0, [], x.dtype));
}

/** Scaled dot-product attention of operator set 23, without a cache of keys and values. */
function attention(c: NodeContext): Tensor {
  if (c.inputs[4] !== undefined || c.inputs[5] !== undefined || c.node.output.filter(Boolean).length > 1) {
    throw c.unsupported('keeps keys and values of earlier calls');
  }
  if (c.float('softcap', 0) !== 0) throw c.unsupported('has a softcap');
  const heads = (x: Tensor, count: number): Tensor => {
    if (x.shape.length === 4) return x;
    const [batch = 0, tokens = 0, width = 0] = x.shape;
    return transpose(reshape(x, [batch, tokens, count, width / count]), [0, 2, 1, 3]);
  };
  const queryHeads = c.integer('q_num_heads', 0);
  const keyHeads = c.integer('kv_num_heads', 0);
  const q = heads(c.input(0), queryHeads);
  const shared = (x: Tensor): Tensor => {
    const [batch = 0, count = 0, tokens = 0, width = 0] = x.shape;
    const times = extentAt(q.shape, 1) / count;
    if (times === 1) return x;
    const wide = expand(reshape(x, [batch, count, 1, tokens, width]), [batch, count, times, tokens, width]);
    return reshape(wide, [batch, count * times, tokens, width]);
  };
  const k = shared(heads(c.input(1), keyHeads));
  const v = shared(heads(c.input(2), keyHeads));
  const scale = c.float('scale', 1 / Math.sqrt(extentAt(q.shape, -1)));
  let scores = matMul(mul(q, scale), swapLastAxes(k));
  const mask = c.inputs[3];
  const negative = (): Tensor => c.graph.scalar(-Infinity, scores.dtype);
  if (mask !== undefined) {
    scores = mask.dtype === 'bool' ? where(mask, scores, negative()) : add(scores, mask);
  }
  if (c.integer('is_causal', 0) === 1) {
    const [rows, columns] = [extentAt(scores.shape, -2), extentAt(scores.shape, -1)];
    const allowed = Uint8Array.from({ length: rows * columns }, (_, index) =>
      index % columns <= Math.floor(index / columns) ? 1 : 0,
    );
    scores = where(c.graph.constant(allowed, [rows, columns]), scores, negative());
  }
  const mixed = matMul(softmax(scores, -1), v);
  if (c.input(0).shape.length === 4) return mixed;
  const [batch = 0, count = 0, tokens = 0, width = 0] = mixed.shape;
  return reshape(transpose(mixed, [0, 2, 1, 3]), [batch, tokens, count * width]);
}

/** Rotary position embedding of operator set 23. */
function rotaryEmbedding(c: NodeContext): Tensor {
  const given = c.input(0);
  const count = c.integer('num_heads', 0);
  const flatHeads = given.shape.length === 3;
  const [batch = 0, second = 0, third = 0, fourth = 0] = given.shape;
  // [batch, tokens, heads, width]
  const x = flatHeads
    ? reshape(given, [batch, second, count, third / count])
    : transpose(given, [0, 2, 1, 3]);
  const width = flatHeads ? third / count : fourth;
  const rotated = c.integer('rotary_embedding_dim', 0) || width;
  const [turning, rest] = rotated === width ? [x] : split(x, 3, [rotated, width - rotated]);
  if (turning === undefined) throw c.fail('turns nothing');
  const positions = c.inputs[3];
  const table = (index: number): Tensor => {
    const picked = positions === undefined ? c.input(index) : gather(c.input(index), positions, 0);
    const lead = picked.shape.length === 2 ? [1, ...picked.shape] : picked.shape;
    return reshape(picked, [extentAt(lead, 0), extentAt(lead, 1), 1, extentAt(lead, 2)]);
  };
  const [cosine, sine] = [table(1), table(2)];
  const half = rotated / 2;
  const interleaved = c.integer('interleaved', 0) === 1;
  const [first, other] = interleaved
    ? [slice(turning, 3, 0, rotated, 2), slice(turning, 3, 1, rotated, 2)]
    : split(turning, 3, [half, half]);
  if (first === undefined || other === undefined) throw c.fail('turns an odd number of features');
  const real = sub(mul(first, cosine), mul(other, sine));
  const imaginary = add(mul(first, sine), mul(other, cosine));
  const joined = interleaved
    ? reshape(
        concat([reshape(real, [...real.shape, 1]), reshape(imaginary, [...imaginary.shape, 1])], 4),
        turning.shape,
      )
    : concat([real, imaginary], 3);
  const whole = rest === undefined ? joined : concat([joined, rest], 3);
  return flatHeads ? reshape(whole, given.shape) : transpose(whole, [0, 2, 1, 3]);
}
