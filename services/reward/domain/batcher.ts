/** Collects items into batches, interactive ones first, and never keeps anybody waiting past its deadline. */

import { deadlineExceeded, internal, PlumbError, resourceExhausted } from '@plumb/kit/errors';
import type { Batching, ItemResult, PreparedItem, ScoreValue, ScoringItem } from './reward-scorer.ts';

/** Interactive: somebody waits. Bulk: work from the queue. */
export type Priority = 'interactive' | 'bulk';

/** A score or why there is none, and what it took. */
export type Batched = ({ readonly score: ScoreValue } | { readonly error: PlumbError }) & {
  /** From being handed in to the start of its batch, its preparation included, in milliseconds. */
  readonly queueMs: number;
  /** The time in its batch, in milliseconds; 0 if it came into none. */
  readonly inferenceMs: number;
};

/** What the outside is told of a batch. */
export interface BatchReport {
  readonly items: number;
  readonly inferenceMs: number;
}

/** The queue of one reward. */
export interface Batcher {
  /**
   * Hands in an item; never throws. The error is RESOURCE_EXHAUSTED, at once if the queue is full or so long that the item
   * would not be scored before its deadline, and shortly before the deadline if it turns out so; the reason of the item's
   * signal if that aborts while it waits; DEADLINE_EXCEEDED if its deadline passes with nothing else to wait for; what
   * preparing it threw, or the scorer threw or returned for it.
   */
  submit(item: ScoringItem, priority: Priority): Promise<Batched>;
  /** Items that wait, those that are being prepared among them. */
  readonly waiting: number;
  /** Resolves when nothing waits and nothing runs. */
  idle(): Promise<void>;
}

/** What a batcher works with. */
export interface BatcherParts {
  /** Is asked anew for each item and batch: a reward may be exchanged while items wait. */
  readonly batching: () => Batching;
  /** Makes an item ready, outside of any batch, so that a slow one holds nobody's place; undefined if it needs nothing. */
  readonly prepare?: (item: ScoringItem) => Promise<PreparedItem> | undefined;
  readonly score: (items: readonly ScoringItem[]) => Promise<readonly ItemResult[]>;
  readonly report?: (batch: BatchReport) => void;
  /** Milliseconds on a clock that only goes forward; performance.now unless given. */
  readonly now?: () => number;
}

/** How much longer than the last batches the next may take without an item missing its deadline. */
const caution = 2;
/** Share of the time that a caller allows which is kept for the way home of its answer, and its bounds in milliseconds. */
const answerShare = 0.1;
const answerMs = { least: 50, most: 500 };
/** Node's timers take no more, in milliseconds. */
const longestTimerMs = 2 ** 31 - 1;
/** Weight of the newest batch in the mean of what an item takes. */
const newestWeight = 0.2;

interface Entry {
  readonly item: ScoringItem;
  readonly priority: Priority;
  /** When it was handed in, and when it was prepared. */
  readonly since: number;
  readySince: number;
  /** When its batch began; undefined while it waits. */
  start: number | undefined;
  prepared: PreparedItem | undefined;
  readonly answerMs: number;
  readonly settle: (result: ItemResult) => void;
}

/**
 * A batcher that starts a batch when it is full, or when its oldest item has waited for the largest delay, whichever is
 * first, and when fewer batches than allowed are running.
 */
export function createBatcher(
  name: string,
  { batching, prepare, score, report, now = () => performance.now() }: BatcherParts,
): Batcher {
  // Sets keep the order of arrival and give up an item from the middle at no cost.
  const preparing: Record<Priority, Set<Entry>> = { interactive: new Set(), bulk: new Set() };
  const queues: Record<Priority, Set<Entry>> = { interactive: new Set(), bulk: new Set() };
  const resting: (() => void)[] = [];
  let running = 0;
  let runningItems = 0;
  /** Milliseconds from one scored item to the next, while there is work; undefined before the first batch. */
  let itemMs: number | undefined;
  let lastEnd = 0;
  let timer: NodeJS.Timeout | undefined;
  const ready = (): number => queues.interactive.size + queues.bulk.size;
  const waiting = (): number => ready() + preparing.interactive.size + preparing.bulk.size;

  /** Starts as many batches as may start now, and sets the timer for the next one. */
  function pump(): void {
    clearTimeout(timer);
    timer = undefined;
    while (running < batching().concurrentBatches && ready() > 0) {
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
    if (ready() >= largestBatch || largestDelayMs === 0) return 0;
    const oldest = [queues.interactive, queues.bulk].map(
      (queue) => queue.values().next().value?.readySince ?? Infinity,
    );
    return Math.min(...oldest) + largestDelayMs - now();
  }

  function take(): Entry[] {
    const batch: Entry[] = [];
    const { largestBatch } = batching();
    for (const queue of [queues.interactive, queues.bulk]) {
      for (const entry of queue) {
        if (batch.length === largestBatch) return batch;
        queue.delete(entry);
        batch.push(entry);
      }
    }
    return batch;
  }

  async function run(entries: readonly Entry[]): Promise<void> {
    const start = now();
    // With nothing else running there is no better moment than now.
    const alone = running === 0;
    const needed = expected(runningItems + entries.length);
    const live = entries.filter((entry) => {
      const left = leftMs(entry.item);
      // The clock of a deadline and the timer that aborts a signal are not the same: nobody is scored too late.
      if (left <= 0) entry.settle({ error: passed() });
      else if (!alone && left < needed + entry.answerMs) {
        entry.settle({ error: tooLate(needed + entry.answerMs - left) });
      } else return true;
      return false;
    });
    if (live.length === 0) {
      rest();
      return;
    }
    for (const entry of live) entry.start = start;
    running += 1;
    runningItems += live.length;
    let results: readonly ItemResult[];
    try {
      results = await score(live.map(({ item, prepared }) => prepared?.item ?? item));
      if (results.length !== live.length) {
        throw new TypeError(`reward ${name} gave ${results.length} results for ${live.length} items`);
      }
    } catch (error) {
      results = live.map(() => ({ error }));
    } finally {
      running -= 1;
      runningItems -= live.length;
    }
    const end = now();
    // A batch in which nothing was scored says nothing of how long scoring takes.
    if (results.some((result) => 'score' in result)) {
      // Batches overlap: what counts is the time since another one ended.
      const newest = (end - Math.max(start, lastEnd)) / live.length;
      itemMs = itemMs === undefined ? newest : itemMs + newestWeight * (newest - itemMs);
    }
    lastEnd = end;
    report?.({ items: live.length, inferenceMs: end - start });
    for (const [index, entry] of live.entries()) {
      entry.settle(results[index] ?? { error: internal(undefined) });
      entry.prepared?.[Symbol.dispose]();
    }
    pump();
    rest();
  }

  function passed(): PlumbError {
    return deadlineExceeded(`the deadline passed while the item waited for reward '${name}'`);
  }

  function tooLate(missingMs: number): PlumbError {
    return resourceExhausted(
      `reward '${name}' has so many items waiting that this one would miss its deadline; try again later, or allow more time`,
      { retryAfterMs: Math.max(100, Math.ceil(missingMs)), metadata: { reward: name } },
    );
  }

  /** Milliseconds until so many items are scored, by what the last batches took. */
  function expected(items: number): number {
    return itemMs === undefined ? 0 : caution * itemMs * items;
  }

  /** Milliseconds until an item that came now would be scored. */
  function expectedMs(priority: Priority): number {
    const ahead =
      runningItems +
      queues.interactive.size +
      preparing.interactive.size +
      (priority === 'bulk' ? queues.bulk.size + preparing.bulk.size : 0);
    // Its own batch is answered as one.
    return expected(ahead + Math.min(batching().largestBatch, waiting() + 1));
  }

  function rest(): void {
    if (running === 0 && waiting() === 0) for (const resolve of resting.splice(0)) resolve();
  }

  /** Why an item is not let in; undefined if it is. */
  function refusal(item: ScoringItem, priority: Priority, homeMs: number): PlumbError | undefined {
    if (item.signal.aborted) return PlumbError.from(item.signal.reason);
    const { largestQueue } = batching();
    if (waiting() >= largestQueue) {
      return resourceExhausted(
        `reward '${name}' has ${waiting()} items waiting, which is its limit; try again later`,
        {
          retryAfterMs: Math.ceil(Math.min(60_000, Math.max(1000, expectedMs(priority)))),
          metadata: { reward: name, limit: String(largestQueue) },
        },
      );
    }
    const left = leftMs(item);
    if (left <= 0) return passed();
    const missing = expectedMs(priority) + homeMs - left;
    // An idle reward tries what seems impossible: or one slow batch would be believed for ever.
    return missing > 0 && running > 0 ? tooLate(missing) : undefined;
  }

  function enqueue(entry: Entry): void {
    entry.readySince = now();
    queues[entry.priority].add(entry);
    pump();
  }

  async function enqueueWhenReady(entry: Entry, work: Promise<PreparedItem>): Promise<void> {
    const line = preparing[entry.priority];
    line.add(entry);
    try {
      const prepared = await work;
      // Whoever has left in the meantime is not in the line any more.
      if (!line.delete(entry)) {
        prepared[Symbol.dispose]();
        return;
      }
      entry.prepared = prepared;
    } catch (error) {
      entry.settle({ error });
      return;
    }
    enqueue(entry);
  }

  return {
    submit(item, priority) {
      const since = now();
      const left = leftMs(item);
      const homeMs = Math.min(answerMs.most, Math.max(answerMs.least, answerShare * left));
      const refused = refusal(item, priority, homeMs);
      if (refused !== undefined) return Promise.resolve({ error: refused, queueMs: 0, inferenceMs: 0 });
      const { promise, resolve } = Promise.withResolvers<Batched>();
      let settled = false;
      let lastMoment: NodeJS.Timeout | undefined;
      const leave = (): void => settle({ error: item.signal.reason });
      const settle = (result: ItemResult): void => {
        if (settled) return;
        settled = true;
        clearTimeout(lastMoment);
        item.signal.removeEventListener('abort', leave);
        preparing[priority].delete(entry);
        queues[priority].delete(entry);
        const end = now();
        const begun = entry.start ?? end;
        const times = { queueMs: begun - since, inferenceMs: end - begun };
        resolve(
          'score' in result ? { ...result, ...times } : { error: PlumbError.from(result.error), ...times },
        );
        // What is in a batch is used until the batch ends.
        if (entry.start === undefined) entry.prepared?.[Symbol.dispose]();
        rest();
      };
      const entry: Entry = {
        item,
        priority,
        since,
        readySince: since,
        start: undefined,
        prepared: undefined,
        answerMs: homeMs,
        settle,
      };
      item.signal.addEventListener('abort', leave, { once: true });
      // Whoever has to wait for a batch and is not served in time hears so while there is still somebody who listens.
      const { concurrentBatches, largestBatch } = batching();
      const waits = running >= concurrentBatches || waiting() >= largestBatch;
      if (waits && left - homeMs < longestTimerMs) {
        lastMoment = setTimeout(() => settle({ error: tooLate(homeMs) }), Math.max(0, left - homeMs)).unref();
      }
      const work = prepare?.(item);
      if (work === undefined) enqueue(entry);
      else void enqueueWhenReady(entry, work);
      return promise;
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

function leftMs({ deadline }: ScoringItem): number {
  return (deadline?.getTime() ?? Infinity) - Date.now();
}
