/** Works on a stream of items side by side and gives results as they are ready. */

/**
 * Maps a stream with up to `limit` calls at a time; the next item is only read when there is room for it, so that a fast
 * sender is slowed down. Results come in the order in which they are ready.
 *
 * @throws what the source or the work throws, after which nothing more is read.
 */
export async function* readyFirst<In, Out>(
  source: AsyncIterable<In>,
  limit: number,
  work: (item: In) => Promise<Out>,
): AsyncGenerator<Out> {
  type Done = { readonly key: number; readonly result: Out };
  type Read = { readonly next: IteratorResult<In> };
  const items = source[Symbol.asyncIterator]();
  const running = new Map<number, Promise<Done>>();
  let reading: Promise<Read> | undefined;
  let ended = false;
  let count = 0;
  try {
    while (!ended || running.size > 0) {
      if (!ended && running.size < limit) reading ??= items.next().then((next) => ({ next }));
      const first = await Promise.race<Done | Read>(
        reading === undefined ? running.values() : [...running.values(), reading],
      );
      if ('next' in first) {
        reading = undefined;
        if (first.next.done === true) {
          ended = true;
        } else {
          count += 1;
          const key = count;
          running.set(
            key,
            work(first.next.value).then((result) => ({ key, result })),
          );
        }
      } else {
        running.delete(first.key);
        yield first.result;
      }
    }
  } finally {
    // A reader that leaves early ends the source; what still runs is settled unseen.
    await Promise.allSettled(running.values());
    await items.return?.();
  }
}
