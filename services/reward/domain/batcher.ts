/** Collects items into batches, interactive ones first, and never keeps anybody waiting past its deadline. */

import { deadlineExceeded, internal, resourceExhausted } from '@plumb/kit/errors';
import type { Batching, ItemResult, ScoreValue, ScoringItem } from './reward-scorer.ts';

/** Interactive: somebody waits. Bulk: work from the queue. */
export type Priority = 'interactive' | 'bulk';

/** A score and what it took. */
export interface Batched {
  readonly score: ScoreValue;
  /** From being handed in to the start of its batch, in milliseconds. */
  readonly queueMs: number;
  /** The batch's time, in milliseconds. */
  readonly inferenceMs: number;
}

/** What the outside is told of a batch. */
export interface BatchReport {
  readonly items: number;
  readonly inferenceMs: number;
}

/** The queue of one reward. */
export interface Batcher {
  /**
   * Hands in an item.
   *
   * @throws PlumbError RESOURCE_EXHAUSTED at once if the queue is full; the reason of the item's signal if that aborts
   *   while it waits; DEADLINE_EXCEEDED if its deadline passes; what the scorer threw or returned for it.
   */
  submit(item: ScoringItem, priority: Priority): Promise<Batched>;
  /** Items that wait. */
  readonly waiting: number;
  /** Resolves when nothing waits and nothing runs. */
  idle(): Promise<void>;
}

interface Entry {
  readonly item: ScoringItem;
  readonly since: number;
  readonly settle: PromiseWithResolvers<Batched>;
  readonly stopListening: () => void;
}

/**
 * A batcher that starts a batch when it is full, or when its oldest item has waited for the largest delay, whichever is
 * first, and when fewer batches than allowed are running.
 *
 * @param batching is asked anew for each item and batch: a reward may be exchanged while items wait
 */
export function createBatcher(
  name: string,
  batching: () => Batching,
  score: (items: readonly ScoringItem[]) => Promise<readonly ItemResult[]>,
  report: (batch: BatchReport) => void = () => undefined,
): Batcher {
  // Sets keep the order of arrival and give up an item from the middle at no cost.
  const queues: Record<Priority, Set<Entry>> = { interactive: new Set(), bulk: new Set() };
  const resting: (() => void)[] = [];
  let running = 0;
  let timer: NodeJS.Timeout | undefined;
  const waiting = (): number => queues.interactive.size + queues.bulk.size;

  /** Starts as many batches as may start now, and sets the timer for the next one. */
  function pump(): void {
    clearTimeout(timer);
    timer = undefined;
    while (running < batching().concurrentBatches && waiting() > 0) {
      const due = dueIn();
      if (due > 0) {
        // A timer may fire up to a millisecond early, and would then only be set again.
        timer = setTimeout(pump, Math.ceil(due));
        return;
      }
      void run(take());
    }
  }

  /** Milliseconds until a batch must start; 0 or less is now. */
  function dueIn(): number {
    const { largestBatch, largestDelayMs } = batching();
    if (waiting() >= largestBatch || largestDelayMs === 0) return 0;
    const oldest = [queues.interactive, queues.bulk].map(
      (queue) => queue.values().next().value?.since ?? Infinity,
    );
    return Math.min(...oldest) + largestDelayMs - performance.now();
  }

  function take(): Entry[] {
    const batch: Entry[] = [];
    const { largestBatch } = batching();
    for (const queue of [queues.interactive, queues.bulk]) {
      for (const entry of queue) {
        if (batch.length === largestBatch) return batch;
        queue.delete(entry);
        entry.stopListening();
        batch.push(entry);
      }
    }
    return batch;
  }

  async function run(entries: readonly Entry[]): Promise<void> {
    const start = performance.now();
    const now = Date.now();
    // The clock of a deadline and the timer that aborts a signal are not the same: nobody is scored too late.
    const live = entries.filter((entry) => {
      const late = entry.item.deadline !== undefined && entry.item.deadline.getTime() <= now;
      if (late)
        entry.settle.reject(
          deadlineExceeded(`the deadline passed while the item waited for reward '${name}'`),
        );
      return !late;
    });
    if (live.length === 0) {
      rest();
      return;
    }
    running += 1;
    let results: readonly ItemResult[];
    try {
      results = await score(live.map((entry) => entry.item));
      if (results.length !== live.length) {
        throw new TypeError(`reward ${name} gave ${results.length} results for ${live.length} items`);
      }
    } catch (error) {
      results = live.map(() => ({ error }));
    } finally {
      running -= 1;
    }
    const inferenceMs = performance.now() - start;
    report({ items: live.length, inferenceMs });
    for (const [index, entry] of live.entries()) {
      const result = results[index] ?? { error: internal(undefined) };
      if ('error' in result) entry.settle.reject(result.error);
      else entry.settle.resolve({ score: result.score, queueMs: start - entry.since, inferenceMs });
    }
    pump();
    rest();
  }

  function rest(): void {
    if (running === 0 && waiting() === 0) for (const resolve of resting.splice(0)) resolve();
  }

  return {
    async submit(item, priority) {
      item.signal.throwIfAborted();
      const { largestQueue } = batching();
      if (waiting() >= largestQueue) {
        throw resourceExhausted(
          `reward '${name}' has ${waiting()} items waiting, which is its limit; try again later`,
          {
            retryAfterMs: 1000,
            metadata: { reward: name, limit: String(largestQueue) },
          },
        );
      }
      const settle = Promise.withResolvers<Batched>();
      const leave = (): void => {
        queues[priority].delete(entry);
        settle.reject(item.signal.reason);
        rest();
      };
      item.signal.addEventListener('abort', leave, { once: true });
      const entry: Entry = {
        item,
        since: performance.now(),
        settle,
        stopListening: () => item.signal.removeEventListener('abort', leave),
      };
      queues[priority].add(entry);
      pump();
      return settle.promise;
    },
    get waiting() {
      return waiting();
    },
    idle: () =>
      new Promise((resolve) => {
        if (running === 0 && waiting() === 0) resolve();
        else resting.push(resolve);
      }),
  };
}
