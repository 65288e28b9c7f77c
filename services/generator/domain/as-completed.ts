/**
 * The values of promises in the order in which they resolve. The first rejection is thrown, and the others are then
 * nobody's.
 */
export async function* asCompleted<T>(promises: readonly Promise<T>[]): AsyncGenerator<T, void, void> {
  const left = new Map(
    promises.map((promise, index) => [index, promise.then((value) => ({ index, value }))] as const),
  );
  try {
    while (left.size > 0) {
      const { index, value } = await Promise.race(left.values());
      left.delete(index);
      yield value;
    }
  } finally {
    for (const promise of left.values()) promise.catch(() => undefined);
  }
}
