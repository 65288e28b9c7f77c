/** Verdicts in a JetStream key-value bucket: all replicas share them and a restart costs no call. */

import { jsonCodec } from '@plumb/kit/bus';
import type { Bus } from '@plumb/kit/bus';
import { unavailable } from '@plumb/kit/errors';
import { storedVerdictSchema } from '../domain/verdict.ts';
import type { VerdictStore } from '../domain/verdict-store.ts';

/** Bucket name. Verdicts stay until somebody deletes the bucket: a judge's hash in each key makes old ones harmless. */
const bucket = 'plumb_verdicts';

// The broker answers in about a millisecond. While it is away a verdict must not wait for it, and the next ones not at all.
const patienceMs = 1000;
const restMs = 5000;

/** @throws PlumbError UNAVAILABLE if the bucket cannot be opened. */
export async function openKeyValueVerdicts(bus: Bus): Promise<VerdictStore> {
  const verdicts = await bus.keyValue(bucket, jsonCodec(storedVerdictSchema));
  let restUntil = 0;

  async function inTime<T>(work: () => Promise<T>): Promise<T> {
    if (performance.now() < restUntil) throw away();
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => reject(away()), patienceMs);
    try {
      return await Promise.race([work(), late]);
    } catch (error) {
      restUntil = performance.now() + restMs;
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  return {
    get: async (key) => (await inTime(() => verdicts.get(key)))?.value,
    put: async (key, verdict) => void (await inTime(() => verdicts.put(key, verdict))),
  };
}

function away() {
  return unavailable('the verdict store does not answer', { reason: 'BROKER_UNAVAILABLE' });
}
