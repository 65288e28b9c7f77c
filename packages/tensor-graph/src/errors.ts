export class PlumbErrorLocal extends Error { code = 'INVALID_ARGUMENT'; }
export function graphError(operator: string, argument: string, description: string): Error {
  return new PlumbErrorLocal(`${operator}.${argument} ${description}`);
}
export function missingGradient(operator: string, node: string): Error {
  return new PlumbErrorLocal(`operator ${operator} (node ${node}) has no gradient rule`);
}
export function describeShape(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`;
}
