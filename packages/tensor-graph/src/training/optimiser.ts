import { invalidArguments } from '@plumb/kit/errors';
import { graphError } from '../errors.ts';
import type { Tensor } from '../graph.ts';
import { add, div, minimum, mul, sqrt, square, sub } from '../operators/elementwise.ts';
import { cast, concat, reshape } from '../operators/layout.ts';
import { reduceSum } from '../operators/reduction.ts';

/** What AdamW does to every parameter. */
export interface AdamWOptions {
  /** Decay of the mean of gradients, in [0, 1); 0.9 unless given. Higher is smoother and slower to turn. */
  readonly beta1?: number;
  /** Decay of the mean of squared gradients, in [0, 1); 0.999 unless given. Lower adapts faster to a changed scale. */
  readonly beta2?: number;
  /** Added to the root of the squared mean, above 0; 1e-8 unless given. Higher damps parameters with tiny gradients. */
  readonly epsilon?: number;
  /** Fraction of a parameter taken away each step, times the learning rate; 0 unless given. */
  readonly weightDecay?: number;
}

/** A parameter with its gradient and optimiser state, as graph tensors of one shape. */
export interface AdamWTensors {
  readonly parameter: Tensor;
  readonly gradient: Tensor;
  readonly firstMoment: Tensor;
  readonly secondMoment: Tensor;
}

/** The scalars of a step that every parameter shares. */
export interface AdamWSchedule {
  /** float64 scalar, 1 at the first step: bias correction needs more digits than float32 has. */
  readonly step: Tensor;
  /** Scalar of the parameters' dtype. */
  readonly learningRate: Tensor;
}

/** Parameters and state after a step. */
export interface AdamWResult {
  readonly parameter: Tensor;
  readonly firstMoment: Tensor;
  readonly secondMoment: Tensor;
}

/** What tells one parameter from another. */
export interface ParameterOptions {
  /** The learning rate is multiplied by this; 1 unless given. */
  readonly learningRateScale?: number;
  /** Whether weight decay applies; true unless given. Biases and normalisation scales usually go without. */
  readonly weightDecay?: boolean;
}

/** @throws PlumbError INVALID_ARGUMENT naming every option that is out of range */
export function checkAdamW(options: AdamWOptions): Required<AdamWOptions> {
  const checked = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, ...options };
  const violations: { field: string; description: string }[] = [];
  for (const field of ['beta1', 'beta2'] as const) {
    if (!(checked[field] >= 0 && checked[field] < 1)) {
      violations.push({ field: `optimiser.${field}`, description: `${checked[field]} must be in [0, 1)` });
    }
  }
  if (!(checked.epsilon > 0)) {
    violations.push({ field: 'optimiser.epsilon', description: `${checked.epsilon} must be above 0` });
  }
  if (!(checked.weightDecay >= 0)) {
    violations.push({
      field: 'optimiser.weightDecay',
      description: `${checked.weightDecay} must not be negative`,
    });
  }
  if (violations.length > 0) throw invalidArguments(violations);
  return checked;
}

/**
 * One step of AdamW with decoupled weight decay and bias correction (Loshchilov and Hutter 2019, algorithm 2, with the
 * decay multiplied by the learning rate as in PyTorch). Returns a function that is applied to each parameter, so that
 * the scalars of the step are computed once.
 */
export function adamW(
  schedule: AdamWSchedule,
  options: AdamWOptions = {},
): (tensors: AdamWTensors, parameterOptions?: ParameterOptions) => AdamWResult {
  const { beta1, beta2, epsilon, weightDecay } = checkAdamW(options);
  if (schedule.step.dtype !== 'float64') {
    throw graphError('adamW', 'step', `is ${schedule.step.dtype}; it must be a float64 scalar`);
  }
  const graph = schedule.step.graph;
  const correction = (beta: number): Tensor => sub(1, power(beta, schedule.step));
  const dtype = schedule.learningRate.dtype;
  // update = rate m / c1 / (sqrt(v / c2) + epsilon) = (rate sqrt(c2) / c1) m / (sqrt(v) + epsilon sqrt(c2))
  const root = sqrt(correction(beta2));
  const stepSize = div(root, correction(beta1));
  const damping = cast(mul(root, epsilon), dtype);
  const shared = new Map<number, { rate: Tensor; keep: Tensor }>();
  const scalarsOf = (scale: number): { rate: Tensor; keep: Tensor } => {
    const known = shared.get(scale);
    if (known !== undefined) return known;
    const precise = mul(cast(schedule.learningRate, 'float64'), scale);
    const made = {
      rate: cast(mul(precise, stepSize), dtype),
      keep: cast(sub(1, mul(precise, weightDecay)), dtype),
    };
    shared.set(scale, made);
    return made;
  };

  return ({ parameter, gradient, firstMoment, secondMoment }, parameterOptions = {}) => {
    if (parameter.graph !== graph)
      throw graphError('adamW', 'parameter', 'belongs to another graph than the step');
    const { rate, keep } = scalarsOf(parameterOptions.learningRateScale ?? 1);
    const first = add(mul(firstMoment, beta1), mul(gradient, 1 - beta1));
    const second = add(mul(secondMoment, beta2), mul(square(gradient), 1 - beta2));
    const update = mul(div(first, add(sqrt(second), damping)), rate);
    const decays = weightDecay > 0 && (parameterOptions.weightDecay ?? true);
    return {
      parameter: sub(decays ? mul(parameter, keep) : parameter, update),
      firstMoment: first,
      secondMoment: second,
    };
  };
}

function power(base: number, exponent: Tensor): Tensor {
  const graph = exponent.graph;
  const results = graph.apply(
    'Pow',
    [graph.scalar(base, 'float64'), exponent],
    [{ dtype: 'float64', shape: exponent.shape }],
  );
  return results[0] ?? exponent;
}

/** Euclidean norm of all elements of all tensors together. */
export function globalNorm(tensors: readonly Tensor[]): Tensor {
  if (tensors.length === 0) throw graphError('globalNorm', 'tensors', 'is empty; give at least one tensor');
  const squares = tensors.map((tensor) => reshape(reduceSum(square(tensor)), [1]));
  return sqrt(reduceSum(concat(squares, 0)));
}

/**
 * The factor that brings gradients to a global norm of at most `limit`: min(1, limit / norm). Multiply every gradient
 * by it. Clipping together keeps the direction of the step (Pascanu, Mikolov and Bengio 2013).
 */
export function clipFactor(norm: Tensor, limit: number): Tensor {
  if (!(limit > 0)) throw graphError('clipFactor', 'limit', `${limit} must be above 0`);
  // As PyTorch does, so that a norm of 0 does not divide by 0.
  return minimum(div(limit, add(norm, 1e-6)), 1);
}

/** Gradients scaled together to a global norm of at most `limit`, and the norm they had. */
export function clipByGlobalNorm(
  gradients: readonly Tensor[],
  limit: number,
): { clipped: Tensor[]; norm: Tensor } {
  const norm = globalNorm(gradients);
  const factor = clipFactor(norm, limit);
  return { clipped: gradients.map((gradient) => mul(gradient, factor)), norm };
}

/** Exponential moving average: average + (1 - decay) (value - average). `decay` is a scalar tensor or a number. */
export function ema(average: Tensor, value: Tensor, decay: Tensor | number): Tensor {
  return add(
    average,
    mul(sub(value, average), sub(1, typeof decay === 'number' ? scalar(average, decay) : decay)),
  );
}

function scalar(like: Tensor, value: number): Tensor {
  return like.graph.scalar(value, like.dtype);
}
