/** Largest relative error of a result or a gradient. */
export const GRADIENT_LIMIT = 1e-4;

/** Largest relative error after ten steps of an optimiser. */
export const TRAINING_LIMIT = 1e-3;

/** The same two of imported denoisers, which PyTorch computes in float32 as well. */
export const DENOISER_LIMIT = 1e-3;
export const DENOISER_TRAINING_LIMIT = 1e-2;

/** Every step of twenty of a whole job; trainers/torch computes in float32. */
export const TRAINER_LIMIT = 1e-3;

/**
 * max |actual - expected| / max |expected|, over the elements of one tensor. 0 for two tensors of zeros; infinite where
 * only the expected one is, where lengths differ, or for values that are not finite.
 */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let difference = 0;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    const [a, b] = [Number(actual[i]), Number(expected[i])];
    if (!Number.isFinite(a) || !Number.isFinite(b)) return Infinity;
    difference = Math.max(difference, Math.abs(a - b));
    largest = Math.max(largest, Math.abs(b));
  }
  return difference === 0 ? 0 : difference / largest;
}
