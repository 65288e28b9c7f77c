import { streamNames } from '@plumb/kit/bus';
import type { Bus } from '@plumb/kit/bus';
import { PlumbError } from '@plumb/kit/errors';
import type { Queue } from '../domain/plan.ts';

/** How full the broker's two task queues are. */
export type QueueDepths = () => Promise<{ queue: Queue; waiting: bigint; inFlight: bigint }[]>;

/** The durable consumers that workers share: generator's and reward's. */
export const queueWorkers: Readonly<Record<Queue, string>> = { generate: 'generator', score: 'reward' };

/** An answer stands for this long, in milliseconds. */
const freshMs = 1_000;

/**
 * The depths, at most a second old. A queue that no worker has asked of yet is left out, and so are both while the broker is
 * away: a view of a run must not fail for them.
 */
export function queueDepthsOf(bus: Bus): QueueDepths {
  let standing: { at: number; depths: ReturnType<QueueDepths> } | undefined;
  const ask = async (): ReturnType<QueueDepths> => {
    const depths: Awaited<ReturnType<QueueDepths>> = [];
    for (const queue of ['generate', 'score'] as const) {
      try {
        const { waiting, inFlight } = await bus.queueDepth(streamNames.tasks, queueWorkers[queue]);
        depths.push({ queue, waiting: BigInt(waiting), inFlight: BigInt(inFlight) });
      } catch (thrown) {
        const error = PlumbError.from(thrown);
        if (error.code !== 'NOT_FOUND' && !error.retryable) throw error;
      }
    }
    return depths;
  };
  return async () => {
    const now = performance.now();
    if (standing === undefined || now - standing.at >= freshMs) standing = { at: now, depths: ask() };
    return await standing.depths;
  };
}
