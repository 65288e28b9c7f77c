import { isDeepStrictEqual } from 'node:util';
import type { CaseFiles } from './case-files.ts';
import { relativeError } from './relative-error.ts';

/** Largest relative error between two makings of a case: a few roundings to float32, in which cases are stored. */
export const DRIFT_LIMIT = 1e-6;

/** Of denoisers and of whole jobs, which PyTorch computes in float32: another processor rounds otherwise, and ten steps add that up. */
export const FLOAT32_DRIFT_LIMIT = 1e-3;

/** How far remade cases are from the committed ones. */
export interface Drift {
  /** A sentence for each difference; empty when there is none. */
  readonly differences: readonly string[];
  /** Largest relative error of any tensor that both have. */
  readonly largest: number;
}

/**
 * Compares cases, whatever versions made them. Integers must be equal, floats agree to `DRIFT_LIMIT`, those of denoisers and
 * of jobs to `FLOAT32_DRIFT_LIMIT`; the tensors and
 * the cases, with their options and order, must be the same ones.
 */
export function driftBetween(committed: CaseFiles, remade: CaseFiles): Drift {
  const differences: string[] = [];
  if (
    !isDeepStrictEqual(remade.index.cases, committed.index.cases) ||
    !isDeepStrictEqual(remade.index.shared, committed.index.shared)
  ) {
    const before = new Map(committed.index.cases.map((one) => [one.name, one]));
    const after = new Map(remade.index.cases.map((one) => [one.name, one]));
    const changed = [...new Set([...before.keys(), ...after.keys()])].filter(
      (name) => !isDeepStrictEqual(before.get(name), after.get(name)),
    );
    differences.push(`index: ${changed.length === 0 ? 'order or shared values' : changed.join(', ')} differ`);
  }
  let largest = 0;
  for (const name of new Set([...committed.tensors.keys(), ...remade.tensors.keys()])) {
    const [before, after] = [committed.tensors.get(name), remade.tensors.get(name)];
    if (before === undefined || after === undefined) {
      differences.push(`${name}: ${before === undefined ? 'is not committed' : 'was not remade'}`);
      continue;
    }
    if (before.dtype !== after.dtype || before.shape.join() !== after.shape.join()) {
      differences.push(
        `${name}: was ${before.dtype} [${before.shape.join(', ')}], is ${after.dtype} [${after.shape.join(', ')}]`,
      );
      continue;
    }
    const error = relativeError(
      Array.from(after.data as ArrayLike<number>, Number),
      Array.from(before.data as ArrayLike<number>, Number),
    );
    largest = Math.max(largest, error);
    const floats = /^(denoisers|trainers)\//.test(name) ? FLOAT32_DRIFT_LIMIT : DRIFT_LIMIT;
    const limit = before.dtype === 'float32' ? floats : 0;
    if (error > limit) {
      differences.push(`${name}: relative error ${error.toExponential(1)}, limit ${limit}`);
    }
  }
  return { differences, largest };
}
