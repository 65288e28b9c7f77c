import { PlumbError, resourceExhausted, unavailable } from '@plumb/kit/errors';

/** Somebody waits for an interactive item; bulk items fill the places that are left. */
export type Priority = 'interactive' | 'bulk';

export interface BatcherOptions<Group, Item, Result> {
  /** Items of a full batch. */
  readonly batchSize: number;
  /** How long the first item of a batch that is not full waits for others, in milliseconds. */
  readonly lingerMs: number;
  /** Batches that may run at a time. A second one keeps the engine busy while the first does its work outside of it. */
  readonly concurrency: number;
  /** Most items that may wait; more are refused. */
  readonly maxWaiting: number;
  /** Groups with one key may share a batch. */
  readonly keyOf: (group: Group) => string;
  /** Results in the order of the items. `signal` aborts when nobody wants any of them any more. */
  readonly run: (group: Group, items: readonly Item[], signal: AbortSignal) => Promise<readonly Result[]>;
  /** Milliseconds of a clock that never goes back. */
  readonly now?: () => number;
}

interface Waiting<Group, Item, Result> {
  readonly group: Group;
  readonly key: string;
  readonly item: Item;
  readonly priority: Priority;
  readonly since: number;
  readonly signal: AbortSignal | undefined;
  readonly resolve: (result: Result) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Gathers items of equal groups into batches. Interactive items go first and bulk items of the same group ride along;
 * otherwise the oldest item decides which group is next. A batch that is not full starts only after a short wait and
 * only when nothing else runs, because it costs as much as a full one.
 */
export class Batcher<Group, Item, Result> {
  readonly #options: BatcherOptions<Group, Item, Result>;
  readonly #now: () => number;
  readonly #running = new Set<Promise<void>>();
  #waiting: Waiting<Group, Item, Result>[] = [];
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: BatcherOptions<Group, Item, Result>) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  /** Items that wait for a batch. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /**
   * The result of one item.
   * @throws PlumbError RESOURCE_EXHAUSTED when too many wait, UNAVAILABLE when the batcher is closed, the reason of
   * `signal` when it aborts, or whatever `run` throws
   */
  submit(group: Group, item: Item, options: { priority: Priority; signal?: AbortSignal }): Promise<Result> {
    const { priority, signal } = options;
    if (this.#closed) return Promise.reject(closing());
    if (signal?.aborted === true) return Promise.reject(PlumbError.from(signal.reason));
    if (this.#waiting.length >= this.#options.maxWaiting) {
      return Promise.reject(
        resourceExhausted(`${this.#waiting.length} clips wait already; try again later`, {
          retryAfterMs: 1000,
        }),
      );
    }
    return new Promise<Result>((resolve, reject) => {
      const key = this.#options.keyOf(group);
      const waiting = { group, key, item, priority, since: this.#now(), signal, resolve, reject };
      this.#waiting.push(waiting);
      signal?.addEventListener(
        'abort',
        () => {
          const place = this.#waiting.indexOf(waiting);
          if (place >= 0) this.#waiting.splice(place, 1);
          reject(PlumbError.from(signal.reason));
        },
        { once: true },
      );
      this.#start();
    });
  }

  /** Refuses what waits and waits for what runs. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    for (const { reject } of this.#waiting.splice(0)) reject(closing());
    await Promise.all(this.#running);
  }

  #start(): void {
    clearTimeout(this.#timer);
    while (this.#running.size < this.#options.concurrency) {
      const batch = this.#next();
      if (batch === undefined) return;
      const chosen = new Set(batch);
      this.#waiting = this.#waiting.filter((waiting) => !chosen.has(waiting));
      const running = this.#run(batch).finally(() => {
        this.#running.delete(running);
        if (!this.#closed) this.#start();
      });
      this.#running.add(running);
    }
  }

  /** The next batch, or undefined: then either nothing waits or a timer is set. */
  #next(): Waiting<Group, Item, Result>[] | undefined {
    const { batchSize, lingerMs } = this.#options;
    const byPriority = [
      ...this.#waiting.filter(({ priority }) => priority === 'interactive'),
      ...this.#waiting.filter(({ priority }) => priority === 'bulk'),
    ];
    const groups = Map.groupBy(byPriority, ({ key }) => key);
    let wait = Infinity;
    for (const members of groups.values()) {
      if (members.length >= batchSize) return members.slice(0, batchSize);
      // While something runs, a batch that is not full has time to fill up.
      if (this.#running.size > 0) continue;
      const oldest = Math.min(...members.map(({ since }) => since));
      const left = lingerMs - (this.#now() - oldest);
      if (left <= 0) return members;
      wait = Math.min(wait, left);
    }
    if (wait < Infinity) {
      this.#timer = setTimeout(() => {
        this.#start();
      }, Math.ceil(wait));
    }
    return undefined;
  }

  async #run(batch: readonly Waiting<Group, Item, Result>[]): Promise<void> {
    const [first] = batch;
    if (first === undefined) return;
    const unwanted = new AbortController();
    const check = (): void => {
      if (batch.every(({ signal }) => signal?.aborted === true)) unwanted.abort();
    };
    for (const { signal } of batch) signal?.addEventListener('abort', check, { once: true });
    try {
      const results = await this.#options.run(
        first.group,
        batch.map(({ item }) => item),
        unwanted.signal,
      );
      for (const [index, result] of results.entries()) batch[index]?.resolve(result);
      for (const { reject } of batch.slice(results.length)) {
        reject(new TypeError(`the batch gave ${results.length} results for ${batch.length} items`));
      }
    } catch (error) {
      for (const { reject } of batch) reject(error);
    } finally {
      for (const { signal } of batch) signal?.removeEventListener('abort', check);
    }
  }
}

function closing(): PlumbError {
  return unavailable('the generator is stopping; try again', { reason: 'SHUTTING_DOWN', retryAfterMs: 1000 });
}
