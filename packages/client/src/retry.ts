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
  const { limit = 8, firstDelayMs = 200, longestDelayMs = 10_000 } = policy;
  for (let attempt = 0; ; attempt++) {
    try {
      return await operation();
    } catch (error) {
      if (attempt >= limit || signal?.aborted === true || !mayHelp(error)) throw error;
      const pause = Math.min(firstDelayMs * 2 ** attempt, longestDelayMs);
      const chance = (Math.random() * pause) / 2;
      await delay(
        (error.retryAfterMs ?? pause / 2) + chance,
        undefined,
        signal === undefined ? {} : { signal },
      );
    }
  }
}

function mayHelp(error: unknown): error is PlumbError {
  // A deadline counts for all attempts.
  if (!(error instanceof PlumbError) || error.code === 'DEADLINE_EXCEEDED') return false;
  return error.retryable && !(error.reason === 'QUOTA_EXHAUSTED' && error.retryAfterMs === undefined);
}
