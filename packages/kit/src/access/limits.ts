import { TokenBucket } from 'limiter';
import { LRUCache } from 'lru-cache';
import { PlumbError } from '../errors/plumb-error.ts';
import type { Caller } from './roles.ts';

/** Limits of a caller that has none of its own; undefined is without limit. */
export interface DefaultLimits {
  readonly callsPerSecond?: number | undefined;
  readonly itemsPerHour?: number | undefined;
}

export interface Limits {
  /** Counts one call. @throws PlumbError RESOURCE_EXHAUSTED, reason RATE_LIMITED, with the time to wait */
  call(caller: Caller): void;
  /** Counts items. @throws PlumbError RESOURCE_EXHAUSTED, reason QUOTA_EXHAUSTED, with the time to wait */
  items(caller: Caller, count: number): void;
}

const hourMs = 3_600_000;
// A caller that was not seen for an hour has a full bucket again, so that forgetting it changes nothing.
const remembered = { max: 10_000, ttl: hourMs, updateAgeOnGet: true };

/** Token buckets for each caller, in this process: a service of several replicas grants them once for each. */
export function createLimits(defaults: DefaultLimits): Limits {
  const calls = new LRUCache<string, TokenBucket>(remembered);
  const items = new LRUCache<string, TokenBucket>(remembered);
  return {
    call: (caller) => {
      const rate = caller.callsPerSecond ?? defaults.callsPerSecond;
      if (rate === undefined) return;
      // Below one call a second the bucket still holds one.
      const waitMs = take(calls, caller.name, Math.max(1, Math.ceil(rate)), rate, 1000, 1);
      if (waitMs !== undefined) {
        throw exhausted('RATE_LIMITED', `this caller may make ${rate} calls a second`, waitMs);
      }
    },
    items: (caller, count) => {
      const quota = caller.itemsPerHour ?? defaults.itemsPerHour;
      if (quota === undefined || count === 0) return;
      if (count > quota) {
        throw exhausted(
          'QUOTA_EXHAUSTED',
          `a request of ${count} items is more than the ${quota} an hour that this caller may have; ask for fewer`,
        );
      }
      const waitMs = take(items, caller.name, quota, quota, hourMs, count);
      if (waitMs !== undefined) {
        throw exhausted('QUOTA_EXHAUSTED', `this caller may have ${quota} items an hour`, waitMs);
      }
    },
  };
}

/** Takes tokens, or says in how many milliseconds there will be enough; then nothing was taken. */
function take(
  buckets: LRUCache<string, TokenBucket>,
  name: string,
  bucketSize: number,
  tokensPerInterval: number,
  interval: number,
  count: number,
): number | undefined {
  let bucket = buckets.get(name);
  // The limits of a caller change with its file.
  if (bucket?.bucketSize !== bucketSize || bucket.tokensPerInterval !== tokensPerInterval) {
    bucket = new TokenBucket({ bucketSize, tokensPerInterval, interval });
    bucket.content = bucketSize;
    buckets.set(name, bucket);
  }
  return bucket.tryRemoveTokens(count) ? undefined : bucket.getWaitTime(count);
}

function exhausted(
  reason: 'RATE_LIMITED' | 'QUOTA_EXHAUSTED',
  message: string,
  retryAfterMs?: number,
): PlumbError {
  return new PlumbError({
    code: 'RESOURCE_EXHAUSTED',
    reason,
    message,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs: Math.max(1, Math.ceil(retryAfterMs)) }),
  });
}
