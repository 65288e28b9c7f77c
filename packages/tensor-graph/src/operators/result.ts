import { internal } from '@plumb/kit/errors';
/** The first of a list that is known to have one. */
export function only<T>(values: readonly (T | undefined)[]): T {
  const value = values[0];
  if (value === undefined) throw internal(new Error('an operator made no result'));
  return value;
}
