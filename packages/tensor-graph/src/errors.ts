import { invalidArgument, PlumbError } from '@plumb/kit/errors';

/**
 * A mistake in how a graph is built: a wrong shape, dtype, axis or attribute. Thrown at build time, never at run time.
 *
 * @param operator the function that was called, as the caller wrote it, such as `matMul`
 * @param argument the argument at fault
 * @param description what is wrong with it, with the shapes involved, and what would be right
 * @returns a PlumbError with code INVALID_ARGUMENT whose field is `operator.argument`
 */
export function graphError(operator: string, argument: string, description: string): PlumbError {
  return invalidArgument(`${operator}.${argument}`, description);
}

/** `[2, 3]`, for error messages. */
export function describeShape(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`;
}
