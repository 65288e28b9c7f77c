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
   * @throws PlumbError RESOURCE_EXHAUSTED at once if the queue is full, or so long that the item would not be scored before
   *   its deadline, or later if it turns out so; the reason of the item's signal if that aborts
   *   while it waits; DEADLINE_EXCEEDED if its deadline passes; what the scorer threw or returned for it.
   */
  submit(item: ScoringItem, priority: Priority): Promise<Batched>;
  /** Items that wait. */
  readonly waiting: number;
  /** Resolves when nothing waits and nothing runs. */
  idle(): Promise<void>;
}

/** How much longer than the last batches the next may take without an item missing its deadline. */
const caution = 2;
/** Time that an answer needs to get home before its deadline, in milliseconds. */
const answerMs = 50;
/** Weight of the newest batch in the mean of what an item takes. */
const newestWeight = 0.2;

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
  let runningItems = 0;
  /** Milliseconds from one scored item to the next, while there is work; undefined before the first batch. */
  let itemMs: number | undefined;
  let lastEnd = 0;
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
    // With nothing else running there is no better moment than now.
    const needed = running === 0 ? 0 : expected(runningItems + entries.length);
    const live = entries.filter((entry) => {
      const left = (entry.item.deadline?.getTime() ?? Infinity) - now;
      // The clock of a deadline and the timer that aborts a signal are not the same: nobody is scored too late.
      if (left <= 0) {
        entry.settle.reject(
          deadlineExceeded(`the deadline passed while the item waited for reward '${name}'`),
        );
      } else if (left < needed) entry.settle.reject(tooLate(needed - left));
      return left > 0 && left >= needed;
    });
    if (live.length === 0) {
      rest();
      return;
    }
    running += 1;
    runningItems += live.length;
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
      runningItems -= live.length;
    }
    const end = performance.now();
    const inferenceMs = end - start;
    // A batch in which nothing was scored says nothing of how long scoring takes.
    if (results.some((result) => 'score' in result)) {
      // Batches overlap: what counts is the time since another one ended.
      const newest = (end - Math.max(start, lastEnd)) / live.length;
      itemMs = itemMs === undefined ? newest : itemMs + newestWeight * (newest - itemMs);
    }
    lastEnd = end;
    report({ items: live.length, inferenceMs });
    for (const [index, entry] of live.entries()) {
      const result = results[index] ?? { error: internal(undefined) };
      if ('error' in result) entry.settle.reject(result.error);
      else entry.settle.resolve({ score: result.score, queueMs: start - entry.since, inferenceMs });
    }
    pump();
    rest();
  }

  function tooLate(missingMs: number): Error {
    return resourceExhausted(
      `reward '${name}' has so many items waiting that this one would miss its deadline; try again later, or allow more time`,
      { retryAfterMs: Math.max(100, Math.ceil(missingMs)), metadata: { reward: name } },
    );
  }

  /** Milliseconds until so many items are scored and answered, by what the last batches took. */
  function expected(items: number): number {
    return itemMs === undefined ? 0 : caution * itemMs * items + answerMs;
  }

  /** Milliseconds until an item that came now would have its answer. */
  function expectedMs(priority: Priority): number {
    const ahead = runningItems + queues.interactive.size + (priority === 'bulk' ? queues.bulk.size : 0);
    // Its own batch is answered as one.
    return expected(ahead + Math.min(batching().largestBatch, waiting() + 1));
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
            retryAfterMs: Math.ceil(Math.min(60_000, Math.max(1000, expectedMs(priority)))),
            metadata: { reward: name, limit: String(largestQueue) },
          },
        );
      }
      const left = (item.deadline?.getTime() ?? Infinity) - Date.now();
      const missing = expectedMs(priority) - left;
      // An idle reward tries what seems impossible: or one slow batch would be believed for ever.
      if (left > 0 && missing > 0 && running > 0) throw tooLate(missing);
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
