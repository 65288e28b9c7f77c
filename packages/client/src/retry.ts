import { setTimeout as delay } from 'node:timers/promises';
import { PlumbError } from '@plumb/kit/errors';

/** How often, and how long apart, something that failed is tried again. */
export interface RetryPolicy {
  /** Further attempts after the first; 8 by default. */
  readonly limit?: number;
  /** Before the second attempt, in milliseconds; 200 by default. It doubles from one to the next, and half of it is chance. */
  readonly firstDelayMs?: number;
  /** 10,000 by default. What a server asks for (RetryInfo) is waited for, however long. */
  readonly longestDelayMs?: number;
}

/**
 * Tries an operation again after UNAVAILABLE, RESOURCE_EXHAUSTED and ABORTED. A server that says when to come back
 * (RetryInfo) is believed, which no retry package does. A quota that waiting does not help is not waited for.
 *
 * @throws the last error of the operation, or AbortError when the signal aborts in a pause
 */
export async function withRetries<Result>(
  operation: () => Promise<Result>,
  policy: RetryPolicy,
  signal: AbortSignal | undefined,
): Promise<Result> {
  const { limit = usualLimit } = policy;
  for (let attempt = 0; ; attempt++) {
    try {
      return await operation();
    } catch (error) {
      if (attempt >= limit || signal?.aborted === true || !mayHelp(error)) throw error;
      await delay(
        pauseMs(policy, attempt, error.retryAfterMs),
        undefined,
        signal === undefined ? {} : { signal },
      );
    }
  }
}

/** Further attempts after the first, where a policy names no limit. */
export const usualLimit = 8;

/**
 * Milliseconds to wait before another attempt.
 *
 * @param attempt attempts that failed before this one
 * @param askedMs what the server asked for
 */
export function pauseMs(policy: RetryPolicy, attempt: number, askedMs: number | undefined): number {
  const { firstDelayMs = 200, longestDelayMs = 10_000 } = policy;
  const pause = Math.min(firstDelayMs * 2 ** attempt, longestDelayMs);
  return (askedMs ?? pause / 2) + (Math.random() * pause) / 2;
}

/** True for an error after which the same may succeed later. */
export function mayHelp(error: unknown): error is PlumbError {
  // A deadline counts for all attempts.
  if (!(error instanceof PlumbError) || error.code === 'DEADLINE_EXCEEDED') return false;
  return error.retryable && !(error.reason === 'QUOTA_EXHAUSTED' && error.retryAfterMs === undefined);
}
