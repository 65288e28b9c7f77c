import { LRUCache } from 'lru-cache';

/** Samples remembered; far more than arrive between two looks at the ledger. */
const mostRemembered = 8192;

/**
 * When clips were written into the ledger by this process, so that the trace of a sample can say how long it then waited for
 * the next plan. Nothing but traces depends on it.
 */
export class Arrivals {
  readonly #at = new LRUCache<string, Date>({ max: mostRemembered });

  /** Samples whose results are in the ledger now. */
  note(sampleIds: readonly string[]): void {
    const now = new Date();
    for (const id of sampleIds) this.#at.set(id, now);
  }

  /** When a sample was noted; undefined if it was not, or was taken before. */
  take(sampleId: string): Date | undefined {
    const at = this.#at.get(sampleId);
    this.#at.delete(sampleId);
    return at;
  }
}
