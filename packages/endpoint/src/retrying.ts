/** Tries again what trying again can help with. */

import { setTimeout as delay } from 'node:timers/promises';
import { withRetry } from '@plumb/kit/telemetry';
import pRetry from 'p-retry';
import { EndpointError } from './endpoint-error.ts';
import type { EndpointSettings } from './endpoint-settings.ts';

export interface Retrying {
  readonly retries: EndpointSettings['retries'];
  /** The caller's deadline and cancellation: it ends every wait. */
  readonly signal: AbortSignal;
  /** When the caller stops waiting, where that is known: an endpoint that asks to be left alone for longer gets no call. */
  readonly deadline?: Date | undefined;
  /** Errors other than EndpointErrors that trying again can help with. */
  readonly alsoHelps?: (error: Error) => boolean;
  /** Called for every failed try. */
  readonly onFault?: (error: Error, attempt: number) => void;
}

// A timer that is set for longer ends at once.
const longestTimerMs = 2 ** 31 - 1;

/**
 * Does the work, and does it again after timeouts, 429, 5xx and broken connections, waiting longer each time and at least
 * as long as the endpoint asks (Retry-After), however long that is. Where that is longer than the caller waits, the error is
 * thrown at once.
 * @throws what the last try threw, or the signal's reason
 */
export async function retrying<T>(
  work: () => Promise<T>,
  { retries, signal, deadline, alsoHelps = () => false, onFault }: Retrying,
): Promise<T> {
  const inTime = (waitMs: number): boolean =>
    deadline === undefined || Date.now() + waitMs < deadline.getTime();
  const again = (error: Error): boolean =>
    (helps(error) || alsoHelps(error)) && inTime(retryAfter(error) ?? 0);
  try {
    const tried = (attempt: number): Promise<T> =>
      withRetry({ attempt, again: (error) => attempt <= retries.limit && again(error) }, work);
    return await pRetry(tried, {
      retries: retries.limit,
      minTimeout: retries.firstDelayMs,
      maxTimeout: retries.longestDelayMs,
      factor: 2,
      randomize: true,
      signal,
      shouldRetry: ({ error }) => again(error),
      onFailedAttempt: async ({ error, attemptNumber, retriesLeft }) => {
        onFault?.(error, attemptNumber);
        const wait = retryAfter(error) ?? 0;
        // p-retry adds its own, jittered wait, so that callers who were sent away together do not come back together.
        if (wait > 0 && inTime(wait) && retriesLeft > 0)
          await delay(Math.min(wait, longestTimerMs), undefined, { signal });
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
