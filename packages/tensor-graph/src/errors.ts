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
  return invalidArgument(`${operator}.${argument}`, description, { reason: 'SHAPE_MISMATCH' });
}

/** An operator on the path of differentiation that has no gradient rule: UNIMPLEMENTED, naming operator and node. */
export function missingGradient(operator: string, node: string): PlumbError {
  return new PlumbError({
    code: 'UNIMPLEMENTED',
    reason: 'METHOD_UNIMPLEMENTED',
    message:
      `operator ${operator} (node ${node}) has no gradient; build it from operators that have one, ` +
      'or pass its input through stopGradient',
    metadata: { operator, node },
  });
}

/** `[2, 3]`, for error messages. */
export function describeShape(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`;
}
