import { graphError } from '../errors.ts';
import type { DType, Graph, Tensor } from '../graph.ts';
import { isFloat } from '../graph.ts';
import { broadcastShapes, sameShape } from '../shape.ts';
import { only } from './result.ts';

/** A tensor, or a number that becomes a scalar constant of the other operand's dtype. */
export type Operand = Tensor | number;

function unary(operator: string, name: string, x: Tensor, attributes = {}): Tensor {
  if (!isFloat(x.dtype)) throw graphError(name, 'x', `is ${x.dtype}; ${name} takes a float dtype`);
  return only(x.graph.apply(operator, [x], [{ dtype: x.dtype, shape: x.shape }], attributes));
}

/** The operands as two tensors of one graph and dtype. */
export function operands(name: string, a: Operand, b: Operand): [Tensor, Tensor] {
  const graph: Graph | undefined =
    typeof a === 'number' ? (typeof b === 'number' ? undefined : b.graph) : a.graph;
  if (graph === undefined) throw graphError(name, 'a', 'and b are both numbers; one must be a tensor');
  const dtype: DType = typeof a === 'number' ? (b as Tensor).dtype : a.dtype;
  const left = typeof a === 'number' ? graph.scalar(a, dtype) : a;
  const right = typeof b === 'number' ? graph.scalar(b, dtype) : b;
  if (left.dtype !== right.dtype) {
    throw graphError(name, 'b', `is ${right.dtype} and a is ${left.dtype}; cast one of them`);
  }
  return [left, right];
}

function binary(operator: string, name: string, a: Operand, b: Operand, result?: DType): Tensor {
  let [left, right] = operands(name, a, b);
  const shape = broadcastShapes(name, left.shape, right.shape);
  left = beforeExpansion(left, right, shape);
  right = beforeExpansion(right, left, shape);
  return only(left.graph.apply(operator, [left, right], [{ dtype: result ?? left.dtype, shape }]));
}

/** An operand that was expanded to a shape which the other has anyway need not be expanded: the operator broadcasts. */
function beforeExpansion(x: Tensor, other: Tensor, shape: readonly number[]): Tensor {
  if (x.source.kind !== 'node' || x.source.node.operator !== 'Expand' || !sameShape(other.shape, shape))
    return x;
  return only(x.source.node.inputs);
}

/** a + b, broadcasting. */
export function add(a: Operand, b: Operand): Tensor {
  if (b === 0 && typeof a !== 'number') return a;
  if (a === 0 && typeof b !== 'number') return b;
  return binary('Add', 'add', a, b);
}

/** a - b, broadcasting. */
export function sub(a: Operand, b: Operand): Tensor {
  if (b === 0 && typeof a !== 'number') return a;
  return binary('Sub', 'sub', a, b);
}

/** a * b element by element, broadcasting. */
export function mul(a: Operand, b: Operand): Tensor {
  if (b === 1 && typeof a !== 'number') return a;
  if (a === 1 && typeof b !== 'number') return b;
  return binary('Mul', 'mul', a, b);
}

/** a / b, broadcasting. */
export function div(a: Operand, b: Operand): Tensor {
  if (b === 1 && typeof a !== 'number') return a;
  return binary('Div', 'div', a, b);
}

/** a to the power of b, broadcasting. Differentiable in `b` only where `a` is positive. */
export function pow(a: Operand, b: Operand): Tensor {
  if (b === 1 && typeof a !== 'number') return a;
  if (b === 2 && typeof a !== 'number') return square(a);
  return binary('Pow', 'pow', a, b);
}

/** x * x. */
export function square(x: Tensor): Tensor {
  return mul(x, x);
}

/** The sum of tensors of one shape, in one pass over memory. */
export function addAll(tensors: readonly Tensor[]): Tensor {
  const [first, second] = tensors;
  if (first === undefined) throw graphError('addAll', 'tensors', 'is empty; give at least one tensor');
  if (second === undefined) return first;
  if (tensors.length === 2) return add(first, second);
  for (const tensor of tensors) {
    if (!sameShape(tensor.shape, first.shape) || tensor.dtype !== first.dtype) {
      throw graphError('addAll', 'tensors', 'must all have one shape and dtype');
    }
  }
  return only(first.graph.apply('Sum', tensors, [{ dtype: first.dtype, shape: first.shape }]));
}

/** The larger of a and b. Where they are equal, the gradient is shared half and half. */
export function maximum(a: Operand, b: Operand): Tensor {
  return binary('Max', 'maximum', a, b);
}

/** The smaller of a and b. Where they are equal, the gradient is shared half and half. */
export function minimum(a: Operand, b: Operand): Tensor {
  return binary('Min', 'minimum', a, b);
}

/** -x. */
export function neg(x: Tensor): Tensor {
  return unary('Neg', 'neg', x);
}

/** |x|; the gradient at 0 is 0. */
export function abs(x: Tensor): Tensor {
  return unary('Abs', 'abs', x);
}

/** -1, 0 or 1. Has no gradient. */
export function sign(x: Tensor): Tensor {
  return unary('Sign', 'sign', x);
}

/** e to the power of x. */
export function exp(x: Tensor): Tensor {
  return unary('Exp', 'exp', x);
}

/** Natural logarithm; NaN below 0. */
export function log(x: Tensor): Tensor {
  return unary('Log', 'log', x);
}

/** Square root; NaN below 0. */
export function sqrt(x: Tensor): Tensor {
  return unary('Sqrt', 'sqrt', x);
}

/** Sine of x in radians. */
export function sin(x: Tensor): Tensor {
  return unary('Sin', 'sin', x);
}

/** Cosine of x in radians. */
export function cos(x: Tensor): Tensor {
  return unary('Cos', 'cos', x);
}

/** Hyperbolic tangent. */
export function tanh(x: Tensor): Tensor {
  return unary('Tanh', 'tanh', x);
}

/** 1 / (1 + e^-x). */
export function sigmoid(x: Tensor): Tensor {
  return unary('Sigmoid', 'sigmoid', x);
}

/** log(1 + e^x), without overflow. */
export function softplus(x: Tensor): Tensor {
  return unary('Softplus', 'softplus', x);
}

/** log(sigmoid(x)), without overflow. */
export function logSigmoid(x: Tensor): Tensor {
  return neg(softplus(neg(x)));
}

/** max(x, 0); the gradient at 0 is 0. */
export function relu(x: Tensor): Tensor {
  return unary('Relu', 'relu', x);
}

/** Error function. */
export function erf(x: Tensor): Tensor {
  return unary('Erf', 'erf', x);
}

/**
 * Gaussian error linear unit, x Φ(x) (Hendrycks and Gimpel 2016).
 * @param options.approximate `tanh` for the tanh approximation of the same paper; exact unless given
 */
export function gelu(x: Tensor, options: { approximate?: 'none' | 'tanh' } = {}): Tensor {
  return unary('Gelu', 'gelu', x, { approximate: options.approximate ?? 'none' });
}

/** Sigmoid linear unit, x sigmoid(x); also called swish. */
export function silu(x: Tensor): Tensor {
  if (!isFloat(x.dtype)) throw graphError('silu', 'x', `is ${x.dtype}; silu takes a float dtype`);
  const type = { dtype: x.dtype, shape: x.shape };
  // The second result is sigmoid(x), for the gradient. Written to ONNX as Sigmoid and Mul.
  return only(x.graph.apply('Silu', [x], [type, type]));
}

/** x limited to [low, high]. The gradient passes where low <= x <= high. */
export function clip(x: Tensor, low: number, high: number): Tensor {
  if (!(low <= high)) throw graphError('clip', 'low', `${low} must be at most high, ${high}`);
  return only(
    x.graph.apply(
      'Clip',
      [x, x.graph.scalar(low, x.dtype), x.graph.scalar(high, x.dtype)],
      [{ dtype: x.dtype, shape: x.shape }],
    ),
  );
}

/** a == b, as bool. Comparisons have no gradient. */
export function equal(a: Operand, b: Operand): Tensor {
  return binary('Equal', 'equal', a, b, 'bool');
}

/** a < b, as bool. */
export function less(a: Operand, b: Operand): Tensor {
  return binary('Less', 'less', a, b, 'bool');
}

/** a <= b, as bool. */
export function lessOrEqual(a: Operand, b: Operand): Tensor {
  return binary('LessOrEqual', 'lessOrEqual', a, b, 'bool');
}

/** a > b, as bool. */
export function greater(a: Operand, b: Operand): Tensor {
  return binary('Greater', 'greater', a, b, 'bool');
}

/** a >= b, as bool. */
export function greaterOrEqual(a: Operand, b: Operand): Tensor {
  return binary('GreaterOrEqual', 'greaterOrEqual', a, b, 'bool');
}

/** Both of two bools. */
export function and(a: Tensor, b: Tensor): Tensor {
  return logical('And', 'and', a, b);
}

/** Either of two bools. */
export function or(a: Tensor, b: Tensor): Tensor {
  return logical('Or', 'or', a, b);
}

/** The opposite of a bool. */
export function not(x: Tensor): Tensor {
  if (x.dtype !== 'bool') throw graphError('not', 'x', `is ${x.dtype}; compare first to get a bool`);
  return only(x.graph.apply('Not', [x], [{ dtype: 'bool', shape: x.shape }]));
}

function logical(operator: string, name: string, a: Tensor, b: Tensor): Tensor {
  if (a.dtype !== 'bool') throw graphError(name, 'a', `is ${a.dtype}; compare first to get a bool`);
  return binary(operator, name, a, b);
}

/** `a` where the condition holds, `b` elsewhere; all three broadcast. A value not taken gets a gradient of 0. */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  if (condition.dtype !== 'bool') {
    throw graphError('where', 'condition', `is ${condition.dtype}; compare first to get a bool`);
  }
  // Two numbers are float32, as nothing says otherwise.
  const fallback = typeof a === 'number' && typeof b === 'number' ? condition.graph.scalar(a) : a;
  const [left, right] = operands('where', fallback, b);
  const shape = broadcastShapes('where', condition.shape, broadcastShapes('where', left.shape, right.shape));
  return only(left.graph.apply('Where', [condition, left, right], [{ dtype: left.dtype, shape }]));
}
