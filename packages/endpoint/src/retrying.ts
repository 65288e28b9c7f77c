/** Tries again what trying again can help with. */

import { setTimeout as delay } from 'node:timers/promises';
import pRetry from 'p-retry';
import { EndpointError } from './endpoint-error.ts';
import type { EndpointSettings } from './endpoint-settings.ts';

export interface Retrying {
  readonly retries: EndpointSettings['retries'];
  /** The caller's deadline and cancellation: it ends every wait. */
  readonly signal: AbortSignal;
  /** Errors other than EndpointErrors that trying again can help with. */
  readonly alsoHelps?: (error: Error) => boolean;
  /** Called for every failed try. */
  readonly onFault?: (error: Error, attempt: number) => void;
}

/**
 * Does the work, and does it again after timeouts, 429, 5xx and broken connections, waiting longer each time and as long as
 * the endpoint asks. An endpoint that asks for more than the longest wait is left alone.
 * @throws what the last try threw, or the signal's reason
 */
export async function retrying<T>(
  work: () => Promise<T>,
  { retries, signal, alsoHelps = () => false, onFault }: Retrying,
): Promise<T> {
  try {
    return await pRetry(work, {
      retries: retries.limit,
      minTimeout: retries.firstDelayMs,
      maxTimeout: retries.longestDelayMs,
      factor: 2,
      randomize: true,
      signal,
      shouldRetry: ({ error }) =>
        (helps(error) || alsoHelps(error)) && (retryAfter(error) ?? 0) <= retries.longestDelayMs,
      onFailedAttempt: async ({ error, attemptNumber, retriesLeft }) => {
        onFault?.(error, attemptNumber);
        const wait = retryAfter(error) ?? 0;
        // p-retry adds its own, jittered wait, so that callers who were sent away together do not come back together.
        if (wait > 0 && wait <= retries.longestDelayMs && retriesLeft > 0)
          await delay(wait, undefined, { signal });
      },
    });
  } catch (error) {
    // An abort that comes while waiting arrives as the timer's own error.
    if (signal.aborted) throw signal.reason;
    throw error;
  }
}

function helps(error: Error): boolean {
  return error instanceof EndpointError && error.fault !== 'rejected' && error.fault !== 'misconfigured';
}

function retryAfter(error: Error): number | undefined {
  return error instanceof EndpointError ? error.retryAfterMs : undefined;
}
