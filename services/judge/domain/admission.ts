/** How many calls an endpoint gets at a time, and how many verdicts may wait for one. */

import PQueue from 'p-queue';
import { resourceExhausted } from '@plumb/kit/errors';

/** Limits of one endpoint. */
export interface Admission {
  /**
   * Runs the work of one verdict, from its first call to its last retry.
   *
   * @throws PlumbError RESOURCE_EXHAUSTED at once, with a time to retry, if as many as allowed are running and waiting.
   */
  verdict<R>(work: () => Promise<R>): Promise<R>;
  /** Runs one call when fewer than `concurrency` are in flight. An abort takes it out of the queue. */
  call<R>(work: () => Promise<R>, signal: AbortSignal): Promise<R>;
  /** Verdicts that are running or waiting. */
  readonly load: number;
}

/**
 * Limits for one endpoint.
 *
 * @param limits.concurrency Calls in flight at a time.
 * @param limits.queue Verdicts that may wait besides.
 */
export function createAdmission(name: string, limits: { concurrency: number; queue: number }): Admission {
  const calls = new PQueue({ concurrency: limits.concurrency });
  const most = limits.concurrency + limits.queue;
  let load = 0;
  return {
    async verdict(work) {
      if (load >= most) {
        throw resourceExhausted(
          `endpoint '${name}' has ${load} verdicts running and waiting, which is its limit; try again later`,
          {
            // A second is about what a verdict takes; the client's own backoff does the rest.
            retryAfterMs: 1000,
            metadata: { endpoint: name, limit: String(most) },
          },
        );
      }
      load += 1;
      try {
        return await work();
      } finally {
        load -= 1;
      }
    },
    // A verdict that waits between two calls holds no place, so a slow one does not keep the others away.
    call: (work, signal) => calls.add(work, { signal }),
    get load() {
      return load;
    },
  };
}
