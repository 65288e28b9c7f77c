import { setTimeout as delay } from 'node:timers/promises';
import type { Bus } from '@plumb/kit/bus';
import type { Logger } from '@plumb/kit/telemetry';
import type { TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { JobStore } from '../../domain/job-store.ts';
import { jobsBucket } from '../job-store.ts';
import { pointsCodec } from '../points-codec.ts';

/** Shortest time between two writes, in milliseconds. */
const pauseMs = 1000;
/** Points that are rewritten with every write; more go into the store for good. */
const maxPoints = 500;

/** The points of a job that are not in the store yet, for who watches it from another process. */
export interface LivePoints {
  /** Takes a point and returns at once. */
  offer(point: TrainingProgress): void;
  /** The store that tells when points are in it. */
  readonly store: JobStore;
  close(): Promise<void>;
}

/** Writes the newest points of a job to `live.<id>` about once a second. */
export async function livePoints(
  bus: Bus,
  store: JobStore,
  jobId: string,
  logger: Logger,
): Promise<LivePoints> {
  const values = await bus.keyValue(jobsBucket, pointsCodec);
  const closing = new AbortController();
  let pending: TrainingProgress[] = [];
  let fresh = false;
  let working: Promise<void> | undefined;
  const work = async (): Promise<void> => {
    while (fresh && !closing.signal.aborted) {
      fresh = false;
      try {
        if (pending.length > maxPoints) await putPoints(jobId, pending);
        await values.put(`live.${jobId}`, pending);
      } catch (error) {
        // The store has every point at the next checkpoint; training waits for no watcher.
        logger.warn({ error, jobId }, 'the newest points were not written');
      }
      await delay(pauseMs, undefined, { signal: closing.signal }).catch(() => undefined);
    }
  };
  const putPoints: JobStore['putPoints'] = async (id, points) => {
    await store.putPoints(id, points);
    const last = points.at(-1)?.step ?? 0;
    pending = pending.filter(({ step }) => step > last);
  };
  return {
    offer(point) {
      pending.push(point);
      fresh = true;
      working ??= work().finally(() => {
        working = undefined;
      });
    },
    store: { ...store, putPoints },
    async close() {
      closing.abort();
      await working;
    },
  };
}
