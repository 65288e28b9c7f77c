import type { Sample, SampleFilter } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { loop } from '../api.ts';

/** Samples of one call. */
const pageSize = 120;
/** Pages that are kept; others are asked for again. */
const mostPages = 10;

/** The samples of a run that a filter leaves, read where somebody looks. */
export class SamplePages {
  readonly #runId: string;
  readonly #filter: SampleFilter;
  readonly #changed: () => void;
  readonly #abort = new AbortController();
  readonly #pages = new Map<number, readonly Sample[] | 'coming'>();
  /** How many there are; undefined before the first answer. */
  total: number | undefined;
  problem: unknown;

  constructor(runId: string, filter: SampleFilter, changed: () => void) {
    this.#runId = runId;
    this.#filter = filter;
    this.#changed = changed;
    void this.#read(0);
  }

  /** The sample at a place; undefined while it is not there yet, which is when it is asked for. */
  at(index: number): Sample | undefined {
    const page = Math.floor(index / pageSize);
    const known = this.#pages.get(page);
    if (known === undefined) {
      void this.#read(page);
      return undefined;
    }
    if (known === 'coming') return undefined;
    // The page that was looked at last goes last.
    this.#pages.delete(page);
    this.#pages.set(page, known);
    return known[index - page * pageSize];
  }

  close(): void {
    this.#abort.abort();
  }

  async #read(page: number): Promise<void> {
    this.#pages.set(page, 'coming');
    try {
      const answer = await loop.listSamples(
        {
          runId: this.#runId,
          filter: this.#filter,
          pageSize,
          skip: page * pageSize,
          count: this.total === undefined,
        },
        { signal: this.#abort.signal },
      );
      this.total ??= Number(answer.totalSize);
      this.#pages.set(page, answer.samples);
      for (const [oldest, value] of this.#pages) {
        if (this.#pages.size <= mostPages) break;
        if (value !== 'coming') this.#pages.delete(oldest);
      }
    } catch (thrown) {
      if (this.#abort.signal.aborted) return;
      this.#pages.delete(page);
      this.problem = thrown;
    }
    this.#changed();
  }
}
