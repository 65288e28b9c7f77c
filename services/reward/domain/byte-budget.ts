/** A limit on bytes that are held at a time. */

import { resourceExhausted } from '@plumb/kit/errors';

/** A budget that is shared by all calls. */
export interface ByteBudget {
  /**
   * Takes bytes until what comes back is disposed of.
   *
   * @throws PlumbError RESOURCE_EXHAUSTED when they are not left
   */
  take(bytes: number): Disposable;
}

/** @param most Bytes that may be held at a time. */
export function createByteBudget(most: number): ByteBudget {
  let held = 0;
  return {
    take(bytes) {
      if (held + bytes > most) {
        throw resourceExhausted(
          `clips inside of messages already take ${held} bytes of the ${most} that this service holds at a time; try again ` +
            'later, or store the clips and give their uris',
          { retryAfterMs: 1000 },
        );
      }
      held += bytes;
      return {
        [Symbol.dispose]: () => {
          held -= bytes;
        },
      };
    },
  };
}
