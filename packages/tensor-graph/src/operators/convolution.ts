import { describeShape, graphError } from '../errors.ts';
import type { Tensor } from '../graph.ts';
import { isFloat } from '../graph.ts';
import { extentAt, sameShape } from '../shape.ts';
import { expand, reshape } from './layout.ts';
import { only } from './result.ts';

/** Settings of a convolution: one number for all spatial axes, or one an axis. */
export interface ConvolutionOptions {
  /** Distance between the places that the kernel is put; 1 unless given. */
  readonly strides?: number | readonly number[];
  /** Zeros added on both sides; 0 unless given. */
  readonly padding?: number | readonly number[];
  /** Distance between the elements that the kernel reads; 1 unless given. */
  readonly dilations?: number | readonly number[];
  /** Channels are cut into this many groups, each with its own kernels; 1 unless given. */
  readonly groups?: number;
}

/** Settings of a transposed convolution. */
export interface ConvolutionTransposeOptions extends ConvolutionOptions {
  /** Extent added at the end of each axis, below its stride; 0 unless given. */
  readonly outputPadding?: number | readonly number[];
}

/** Options with one number for each spatial axis. */
export interface ConvolutionSettings {
  readonly strides: readonly number[];
  readonly padding: readonly number[];
  readonly dilations: readonly number[];
  readonly outputPadding: readonly number[];
  readonly groups: number;
}

/**
 * Convolution over one to three spatial axes (cross-correlation, as everywhere in deep learning).
 * @param x [batch, inputs, ...spatial]
 * @param weight [outputs, inputs / groups, ...kernel]
 * @param bias [outputs]
 * @returns [batch, outputs, ...spatial']
 */
export function conv(x: Tensor, weight: Tensor, bias?: Tensor, options: ConvolutionOptions = {}): Tensor {
  const settings = check('conv', x, weight, options);
  const outputs = extentAt(weight.shape, 0);
  const { groups } = settings;
  if (extentAt(weight.shape, 1) * groups !== extentAt(x.shape, 1) || outputs % groups !== 0) {
    throw graphError(
      'conv',
      'weight',
      `${describeShape(weight.shape)} must be [outputs, ${extentAt(x.shape, 1)} / ${groups}, ...kernel], ` +
        `with outputs a multiple of ${groups} groups, for x ${describeShape(x.shape)}`,
    );
  }
  checkBias('conv', bias, outputs);
  const spatial = x.shape.slice(2).map((extent, axis) => {
    const reach = (settings.dilations[axis] ?? 1) * (extentAt(weight.shape, axis + 2) - 1) + 1;
    return (
      Math.floor((extent + 2 * (settings.padding[axis] ?? 0) - reach) / (settings.strides[axis] ?? 1)) + 1
    );
  });
  return apply('Conv', 'conv', x, weight, bias, [extentAt(x.shape, 0), outputs, ...spatial], settings);
}

/**
 * Transposed convolution: the gradient of `conv` with respect to its input, used to enlarge.
 * @param x [batch, inputs, ...spatial]
 * @param weight [inputs, outputs / groups, ...kernel]
 * @param bias [outputs]
 * @returns [batch, outputs, ...spatial']
 */
export function convTranspose(
  x: Tensor,
  weight: Tensor,
  bias?: Tensor,
  options: ConvolutionTransposeOptions = {},
): Tensor {
  const settings = check('convTranspose', x, weight, options);
  const { groups } = settings;
  const outputs = extentAt(weight.shape, 1) * groups;
  if (extentAt(weight.shape, 0) !== extentAt(x.shape, 1) || extentAt(x.shape, 1) % groups !== 0) {
    throw graphError(
      'convTranspose',
      'weight',
      `${describeShape(weight.shape)} must be [${extentAt(x.shape, 1)}, outputs / groups, ...kernel], ` +
        `with inputs a multiple of ${groups} groups, for x ${describeShape(x.shape)}`,
    );
  }
  checkBias('convTranspose', bias, outputs);
  const spatial = x.shape.slice(2).map((extent, axis) => {
    const stride = settings.strides[axis] ?? 1;
    const added = settings.outputPadding[axis] ?? 0;
    if (added >= Math.max(stride, settings.dilations[axis] ?? 1)) {
      throw graphError('convTranspose', 'outputPadding', `${added} must be below the stride, ${stride}`);
    }
    const reach = (settings.dilations[axis] ?? 1) * (extentAt(weight.shape, axis + 2) - 1) + 1;
    return stride * (extent - 1) + added + reach - 2 * (settings.padding[axis] ?? 0);
  });
  return apply(
    'ConvTranspose',
    'convTranspose',
    x,
    weight,
    bias,
    [extentAt(x.shape, 0), outputs, ...spatial],
    settings,
  );
}

/**
 * Enlarges by repeating elements, a whole number of times along each spatial axis (nearest neighbour).
 * @param x [batch, channels, ...spatial]
 * @param factors one for each spatial axis, or one for all
 */
export function resizeNearest(x: Tensor, factors: number | readonly number[]): Tensor {
  const axes = x.shape.length - 2;
  const times = perAxis('resizeNearest', 'factors', factors, axes, 1, 1);
  // Repeating an element is broadcasting a new axis beside its own; the runtime's Resize has no gradient operator.
  const interleaved: number[] = [];
  const repeated: number[] = [];
  for (const [axis, factor] of times.entries()) {
    const extent = extentAt(x.shape, axis + 2);
    interleaved.push(extent, 1);
    repeated.push(extent, factor);
  }
  const lead = x.shape.slice(0, 2);
  const wide = expand(reshape(x, [...lead, ...interleaved]), [...lead, ...repeated]);
  return reshape(wide, [...lead, ...x.shape.slice(2).map((extent, axis) => extent * (times[axis] ?? 1))]);
}

/** The settings that a convolution node was made with. */
export function settingsOf(attributes: Readonly<Record<string, unknown>>): ConvolutionSettings {
  const list = (name: string): number[] => {
    const value = attributes[name];
    return Array.isArray(value) ? value.map(Number) : [];
  };
  const strides = list('strides');
  return {
    strides,
    padding: list('pads').slice(0, strides.length),
    dilations: list('dilations'),
    outputPadding: list('output_padding'),
    groups: Number(attributes['group']),
  };
}

function apply(
  operator: string,
  name: string,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | undefined,
  shape: readonly number[],
  settings: ConvolutionSettings,
): Tensor {
  if (shape.some((extent) => extent < 1)) {
    throw graphError(
      name,
      'weight',
      `kernel ${describeShape(weight.shape.slice(2))} leaves nothing of x ${describeShape(x.shape)}: ` +
        `the result would be ${describeShape(shape)}`,
    );
  }
  const integers = (values: readonly number[]): bigint[] => values.map((value) => BigInt(value));
  return only(
    x.graph.apply(
      operator,
      bias === undefined ? [x, weight] : [x, weight, bias],
      [{ dtype: x.dtype, shape }],
      {
        strides: integers(settings.strides),
        pads: integers([...settings.padding, ...settings.padding]),
        dilations: integers(settings.dilations),
        group: BigInt(settings.groups),
        kernel_shape: integers(weight.shape.slice(2)),
        ...(operator === 'ConvTranspose' ? { output_padding: integers(settings.outputPadding) } : {}),
      },
    ),
  );
}

function check(
  name: string,
  x: Tensor,
  weight: Tensor,
  options: ConvolutionTransposeOptions,
): ConvolutionSettings {
  const axes = x.shape.length - 2;
  if (!isFloat(x.dtype) || weight.dtype !== x.dtype) {
    throw graphError(
      name,
      'weight',
      `is ${weight.dtype} and x is ${x.dtype}; both must have one float dtype`,
    );
  }
  if (axes < 1 || axes > 3 || weight.shape.length !== x.shape.length) {
    throw graphError(
      name,
      'x',
      `${describeShape(x.shape)} and weight ${describeShape(weight.shape)} must both have one to three spatial axes`,
    );
  }
  const groups = options.groups ?? 1;
  if (!Number.isInteger(groups) || groups < 1)
    throw graphError(name, 'groups', `${groups} must be a positive integer`);
  return {
    strides: perAxis(name, 'strides', options.strides, axes, 1, 1),
    padding: perAxis(name, 'padding', options.padding, axes, 0, 0),
    dilations: perAxis(name, 'dilations', options.dilations, axes, 1, 1),
    outputPadding: perAxis(name, 'outputPadding', options.outputPadding, axes, 0, 0),
    groups,
  };
}

function checkBias(name: string, bias: Tensor | undefined, outputs: number): void {
  if (bias !== undefined && !sameShape(bias.shape, [outputs])) {
    throw graphError(name, 'bias', `${describeShape(bias.shape)} must be [${outputs}]`);
  }
}

function perAxis(
  name: string,
  argument: string,
  value: number | readonly number[] | undefined,
  axes: number,
  fallback: number,
  least: number,
): number[] {
  const values =
    typeof value === 'object' ? [...value] : Array.from({ length: axes }, () => value ?? fallback);
  if (values.length !== axes || values.some((item) => !Number.isInteger(item) || item < least)) {
    throw graphError(
      name,
      argument,
      `${describeShape(values)} must hold ${axes} integers of at least ${least}, or be one`,
    );
  }
  return values;
}
