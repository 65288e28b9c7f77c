import type { Tensor } from '../graph.ts';
import { mul } from '../operators/elementwise.ts';
import { reshape, transpose } from '../operators/layout.ts';
import { matMul } from '../operators/matrix.ts';
import { reduceSum } from '../operators/reduction.ts';
import type { NodeContext } from './node-context.ts';

/**
 * Einstein summation of one or two tensors, as a matrix product where there is something to sum over.
 * @param equation such as `bhqd,bhkd->bhqk`; no ellipsis, no letter twice in one term
 */
export function einsum(c: NodeContext, equation: string): Tensor {
  const [left = '', right] = equation.replaceAll(' ', '').split('->');
  const terms = left.split(',');
  const tensors = c.inputs.map((_, index) => c.input(index));
  const counts = new Map<string, number>();
  for (const letter of terms.join('')) counts.set(letter, (counts.get(letter) ?? 0) + 1);
  const target =
    right ??
    [...counts]
      .flatMap(([letter, count]) => (count === 1 ? [letter] : []))
      .toSorted()
      .join('');
  if (
    equation.includes('.') ||
    terms.length !== tensors.length ||
    terms.length > 2 ||
    terms.some(
      (term, index) => new Set(term).size !== term.length || term.length !== tensors[index]?.shape.length,
    )
  ) {
    throw c.unsupported(
      `sums by ${equation}; one or two terms without ellipsis and repeated letters are supported`,
    );
  }
  // What only one term has and the result does not is summed first.
  const reduced = tensors.map((tensor, index) => {
    const term = terms[index] ?? '';
    const others = terms.filter((_, other) => other !== index).join('');
    const gone = term
      .split('')
      .flatMap((letter, axis) => (target.includes(letter) || others.includes(letter) ? [] : [axis]));
    return {
      term: term
        .split('')
        .filter((_, axis) => !gone.includes(axis))
        .join(''),
      tensor: gone.length === 0 ? tensor : reduceSum(tensor, { axes: gone }),
    };
  });
  const [a, b] = reduced;
  if (a === undefined) throw c.fail('has no inputs');
  const arranged = (tensor: Tensor, from: string, to: string): Tensor =>
    transpose(
      tensor,
      to.split('').map((letter) => from.indexOf(letter)),
    );
  if (b === undefined) return arranged(a.tensor, a.term, target);
  const extents = new Map<string, number>();
  for (const { term, tensor } of [a, b]) {
    for (const [axis, letter] of term.split('').entries()) extents.set(letter, tensor.shape[axis] ?? 1);
  }
  const pick = (keep: (letter: string) => boolean): string => [...extents.keys()].filter(keep).join('');
  const both = (letter: string): boolean => a.term.includes(letter) && b.term.includes(letter);
  const batch = pick((letter) => both(letter) && target.includes(letter));
  const summed = pick((letter) => both(letter) && !target.includes(letter));
  const rows = pick((letter) => a.term.includes(letter) && !b.term.includes(letter));
  const columns = pick((letter) => b.term.includes(letter) && !a.term.includes(letter));
  const shapeOf = (letters: string): number[] => letters.split('').map((letter) => extents.get(letter) ?? 1);
  const size = (letters: string): number => shapeOf(letters).reduce((x, y) => x * y, 1);
  if (summed === '') {
    const spread = (tensor: Tensor, term: string): Tensor => {
      const order = target
        .split('')
        .filter((letter) => term.includes(letter))
        .join('');
      return reshape(
        arranged(tensor, term, order),
        target.split('').map((letter) => (term.includes(letter) ? (extents.get(letter) ?? 1) : 1)),
      );
    };
    return mul(spread(a.tensor, a.term), spread(b.tensor, b.term));
  }
  const left3 = reshape(arranged(a.tensor, a.term, batch + rows + summed), [
    size(batch),
    size(rows),
    size(summed),
  ]);
  const right3 = reshape(arranged(b.tensor, b.term, batch + summed + columns), [
    size(batch),
    size(summed),
    size(columns),
  ]);
  const product = reshape(matMul(left3, right3), shapeOf(batch + rows + columns));
  return arranged(product, batch + rows + columns, target);
}
