import { describeShape, graphError } from '../errors.ts';
import type { Tensor } from '../graph.ts';
import { isFloat, sizeOf } from '../graph.ts';
import { extentAt, sameShape } from '../shape.ts';
import { add, div, mul, sqrt, square, sub } from './elementwise.ts';
import { reshape } from './layout.ts';
import { reduceMean } from './reduction.ts';
import { only } from './result.ts';

/** Added to the variance so that a constant row does not divide by 0; 1e-5 unless given. */
export interface NormalisationOptions {
  readonly epsilon?: number;
}

/**
 * Layer normalisation over the last axis (Ba, Kiros and Hinton 2016).
 * @param scale [features], or undefined for none
 * @param bias [features], or undefined for none
 */
export function layerNorm(
  x: Tensor,
  scale: Tensor | undefined,
  bias: Tensor | undefined,
  options: NormalisationOptions = {},
): Tensor {
  if (!isFloat(x.dtype)) throw graphError('layerNorm', 'x', `is ${x.dtype}; layerNorm takes a float dtype`);
  const features = extentAt(x.shape, -1);
  checkFeatures('layerNorm', 'scale', scale, features);
  checkFeatures('layerNorm', 'bias', bias, features);
  if (x.dtype === 'float64') return composedLayerNorm(x, scale, bias, options);
  const statistics = [...x.shape.slice(0, -1), 1];
  const ones = scale ?? x.graph.filled(1, [features], x.dtype);
  return only(
    x.graph.apply(
      'LayerNormalization',
      bias === undefined ? [x, ones] : [x, ones, bias],
      [
        { dtype: x.dtype, shape: x.shape },
        // Mean and inverse standard deviation, which the gradient uses; the writer leaves them out when nothing reads them.
        { dtype: x.dtype, shape: statistics },
        { dtype: x.dtype, shape: statistics },
      ],
      { axis: -1n, epsilon: options.epsilon ?? 1e-5 },
    ),
  );
}

/** The operator of ONNX keeps its statistics in float32, so float64 is composed of simpler operators. */
function composedLayerNorm(
  x: Tensor,
  scale: Tensor | undefined,
  bias: Tensor | undefined,
  options: NormalisationOptions,
): Tensor {
  const centred = sub(x, reduceMean(x, { axes: [-1], keepDims: true }));
  const normal = rmsNorm(centred, undefined, options);
  const scaled = scale === undefined ? normal : mul(normal, scale);
  return bias === undefined ? scaled : add(scaled, bias);
}

/**
 * Root mean square normalisation over the last axis (Zhang and Sennrich 2019).
 * @param scale [features], or undefined for none
 */
export function rmsNorm(x: Tensor, scale?: Tensor, options: NormalisationOptions = {}): Tensor {
  checkFeatures('rmsNorm', 'scale', scale, extentAt(x.shape, -1));
  const root = sqrt(add(reduceMean(square(x), { axes: [-1], keepDims: true }), options.epsilon ?? 1e-5));
  const normal = div(x, root);
  return scale === undefined ? normal : mul(normal, scale);
}

/**
 * Group normalisation (Wu and He 2018): mean and variance over each group of channels and all positions.
 * @param x [batch, channels, ...positions]
 * @param groups divides the number of channels
 * @param scale [channels], or undefined for none
 * @param bias [channels], or undefined for none
 */
export function groupNorm(
  x: Tensor,
  groups: number,
  scale?: Tensor,
  bias?: Tensor,
  options: NormalisationOptions = {},
): Tensor {
  if (x.shape.length < 2) {
    throw graphError('groupNorm', 'x', `${describeShape(x.shape)} must be [batch, channels, ...positions]`);
  }
  const batch = extentAt(x.shape, 0);
  const channels = extentAt(x.shape, 1);
  if (!Number.isInteger(groups) || groups < 1 || channels % groups !== 0) {
    throw graphError(
      'groupNorm',
      'groups',
      `${groups} must divide the ${channels} channels of ${describeShape(x.shape)}`,
    );
  }
  checkFeatures('groupNorm', 'scale', scale, channels);
  checkFeatures('groupNorm', 'bias', bias, channels);
  // A group of a sample is one row, and normalising rows is what layer normalisation does.
  const rows = reshape(x, [batch, groups, sizeOf(x.shape.slice(1)) / groups]);
  const normal = reshape(layerNorm(rows, undefined, undefined, options), x.shape);
  const perChannel = [channels, ...x.shape.slice(2).map(() => 1)];
  const scaled = scale === undefined ? normal : mul(normal, reshape(scale, perChannel));
  return bias === undefined ? scaled : add(scaled, reshape(bias, perChannel));
}

function checkFeatures(
  operator: string,
  argument: string,
  tensor: Tensor | undefined,
  features: number,
): void {
  if (tensor !== undefined && !sameShape(tensor.shape, [features])) {
    throw graphError(operator, argument, `${describeShape(tensor.shape)} must be [${features}]`);
  }
}
