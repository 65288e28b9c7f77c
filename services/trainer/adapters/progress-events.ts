import type { Bus } from '@plumb/kit/bus';
import { subjects } from '@plumb/kit/bus';
import { PlumbError } from '@plumb/kit/errors';
import type { Logger } from '@plumb/kit/telemetry';
import { TrainingProgressSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';

/** Shortest time between two points of a curve on the bus, in milliseconds; WatchJob has every point. */
const pauseMs = 1000;
/** Points that wait for a broker that is away; the oldest is dropped first, the job's record has all of them. */
const maxWaiting = 1000;

/** Publishes training progress for whoever watches the bus. */
export interface ProgressEvents {
  /** Takes a point and returns at once: training waits for no broker. */
  offer(point: TrainingProgress): void;
  /** Gives up what has not been published. */
  close(): Promise<void>;
}

/**
 * Publishes at most a point a second, always the newest; points with a probe and the last one of a job always go out.
 * @param now milliseconds, for tests
 */
export function progressEvents(
  bus: Pick<Bus, 'publish'>,
  logger: Logger,
  now: () => number = Date.now,
): ProgressEvents {
  const closing = new AbortController();
  const waiting: TrainingProgress[] = [];
  let working: Promise<void> | undefined;
  let lastMs = -Infinity;
  const work = async (): Promise<void> => {
    for (let point = waiting.shift(); point !== undefined; point = waiting.shift()) {
      try {
        await bus.publish(subjects.trainingProgress, TrainingProgressSchema, point, {
          id: `${point.jobId}.${point.step}`,
          signal: closing.signal,
        });
      } catch (error) {
        if (closing.signal.aborted) return;
        // The job's record and WatchJob have the point; training does not stop for a subscriber.
        logger.warn({ error, jobId: point.jobId, step: point.step }, 'training progress was not published');
      }
    }
  };
  return {
    offer(point) {
      const always = point.probes.length > 0 || point.step === point.totalSteps;
      if (!always && now() - lastMs < pauseMs) return;
      lastMs = now();
      waiting.push(point);
      if (waiting.length > maxWaiting) waiting.shift();
      working ??= work().finally(() => {
        working = undefined;
      });
    },
    async close() {
      closing.abort(
        new PlumbError({ code: 'CANCELLED', reason: 'SHUTTING_DOWN', message: 'the trainer is stopping' }),
      );
      await working;
    },
  };
}
