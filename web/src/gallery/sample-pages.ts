import type { Sample, SampleFilter } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { loop } from '../api.ts';

/** Samples of one call. */
const pageSize = 120;
/** Pages that are kept; others are asked for again. */
const mostPages = 10;

interface Page {
  samples: readonly Sample[] | undefined;
  /** Read before something changed. */
  stale: boolean;
  coming: boolean;
}

/** The samples of a run that a filter leaves, read where somebody looks. */
export class SamplePages {
  readonly #runId: string;
  readonly #filter: SampleFilter;
  readonly #changed: () => void;
  readonly #abort = new AbortController();
  readonly #pages = new Map<number, Page>();
  /** Whether the number of samples is to be asked for. */
  #stale = true;
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
    if (known === undefined || (known.stale && !known.coming)) void this.#read(page);
    if (known?.samples === undefined) return undefined;
    // The page that was looked at last goes last.
    this.#pages.delete(page);
    this.#pages.set(page, known);
    return known.samples[index - page * pageSize];
  }

  /** Something has changed: what is looked at is read again, and stays as it is until then. */
  refresh(): void {
    for (const page of this.#pages.values()) page.stale = true;
    this.#stale = true;
    // The number of samples comes with whatever page is read next; without one there is nothing that would ask.
    if (this.total === 0) void this.#read(0);
    this.#changed();
  }

  close(): void {
    this.#abort.abort();
  }

  async #read(page: number): Promise<void> {
    const state: Page = this.#pages.get(page) ?? { samples: undefined, stale: false, coming: true };
    state.stale = false;
    state.coming = true;
    this.#pages.set(page, state);
    const count = this.#stale;
    this.#stale = false;
    try {
      const answer = await loop.listSamples(
        {
          runId: this.#runId,
          filter: this.#filter,
          pageSize,
          skip: page * pageSize,
          count,
        },
        { signal: this.#abort.signal },
      );
      if (count) this.total = Number(answer.totalSize);
      state.samples = answer.samples;
      this.problem = undefined;
      for (const [oldest, { coming }] of this.#pages) {
        if (this.#pages.size <= mostPages) break;
        if (!coming) this.#pages.delete(oldest);
      }
    } catch (thrown) {
      if (this.#abort.signal.aborted) return;
      if (state.samples === undefined) this.#pages.delete(page);
      if (count) this.#stale = true;
      this.problem = thrown;
    } finally {
      state.coming = false;
    }
    this.#changed();
  }
}
