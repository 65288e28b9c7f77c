/** Room for bytes that are held for a while, for which one waits. */

/** Room of so many bytes. */
export interface Room {
  /**
   * Waits for room, in the order of the calls. Whoever needs more than there is at all gets all of it.
   *
   * @throws the reason of the signal if that aborts before
   */
  take(bytes: number, signal: AbortSignal): Promise<Share>;
}

/** A part of the room, until it is disposed of. */
export interface Share extends Disposable {
  /** Says how much it is after all. What is too much is missing to those who come later. */
  resize(bytes: number): void;
}

interface Waiting {
  readonly bytes: number;
  enter(): void;
}

/** @param most Bytes that may be held at a time. */
export function createRoom(most: number): Room {
  const line = new Set<Waiting>();
  let held = 0;

  function admit(): void {
    for (const waiting of line) {
      if (held + waiting.bytes > most) return;
      line.delete(waiting);
      held += waiting.bytes;
      waiting.enter();
    }
  }

  function shareOf(bytes: number): Share {
    let mine = bytes;
    const resize = (next: number): void => {
      held += next - mine;
      mine = next;
      admit();
    };
    return { resize, [Symbol.dispose]: () => resize(0) };
  }

  return {
    async take(bytes, signal) {
      signal.throwIfAborted();
      const { promise, resolve, reject } = Promise.withResolvers<undefined>();
      const waiting: Waiting = { bytes: Math.min(bytes, most), enter: () => resolve(undefined) };
      const leave = (): void => {
        line.delete(waiting);
        reject(signal.reason);
        // Those behind it may fit.
        admit();
      };
      signal.addEventListener('abort', leave, { once: true });
      line.add(waiting);
      admit();
      try {
        await promise;
      } finally {
        signal.removeEventListener('abort', leave);
      }
      return shareOf(waiting.bytes);
    },
  };
}
