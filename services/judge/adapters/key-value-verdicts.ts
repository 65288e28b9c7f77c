/** Verdicts in a JetStream key-value bucket: all replicas share them and a restart costs no call. */

import { jsonCodec } from '@plumb/kit/bus';
import type { Bus } from '@plumb/kit/bus';
import { unavailable } from '@plumb/kit/errors';
import { storedVerdictSchema } from '../domain/verdict.ts';
import type { StoredVerdict } from '../domain/verdict.ts';
import type { VerdictStore } from '../domain/verdict-store.ts';

/** Bucket name. Verdicts stay until somebody deletes the bucket: a judge's hash in each key makes old ones harmless. */
const bucket = 'plumb_verdicts';

// The broker answers in about a millisecond. While it is away a verdict must not wait for it, and the next ones not at all.
const patienceMs = 1000;
const restMs = 3000;
// Verdicts that are kept back for a broker that is away; about 1 KiB each.
const mostUnsaved = 50_000;

/**
 * Opens the bucket. A verdict that cannot be written is kept back and written when the broker answers again.
 *
 * @param signal Ends the attempts to write what was kept back.
 * @throws PlumbError UNAVAILABLE if the bucket cannot be opened.
 */
export async function openKeyValueVerdicts(bus: Bus, signal: AbortSignal): Promise<VerdictStore> {
  const verdicts = await bus.keyValue(bucket, jsonCodec(storedVerdictSchema));
  const unsaved = new Map<string, StoredVerdict>();
  let restUntil = 0;
  let timer: NodeJS.Timeout | undefined;
  signal.addEventListener('abort', () => clearTimeout(timer), { once: true });

  async function inTime<T>(work: () => Promise<T>): Promise<T> {
    if (performance.now() < restUntil) throw away();
    const { promise: late, reject } = Promise.withResolvers<never>();
    const patience = setTimeout(() => reject(away()), patienceMs);
    try {
      return await Promise.race([work(), late]);
    } catch (error) {
      restUntil = performance.now() + restMs;
      throw error;
    } finally {
      clearTimeout(patience);
    }
  }

  function saveLater(): void {
    if (timer !== undefined || signal.aborted || unsaved.size === 0) return;
    timer = setTimeout(() => {
      timer = undefined;
      void saveUnsaved().finally(saveLater);
    }, restMs + 100);
    timer.unref();
  }

  async function saveUnsaved(): Promise<void> {
    for (const [key, verdict] of unsaved) {
      try {
        await inTime(() => verdicts.put(key, verdict));
        unsaved.delete(key);
      } catch {
        // Still away: the next attempt is on its way, and whoever asked for the verdict was told when it failed first.
        return;
      }
    }
  }

  return {
    get: async (key) => unsaved.get(key) ?? (await inTime(() => verdicts.get(key)))?.value,
    async put(key, verdict) {
      try {
        await inTime(() => verdicts.put(key, verdict));
      } catch (error) {
        if (unsaved.size < mostUnsaved) unsaved.set(key, verdict);
        saveLater();
        throw error;
      }
    },
  };
}

function away() {
  return unavailable('the verdict store does not answer', { reason: 'BROKER_UNAVAILABLE' });
}
