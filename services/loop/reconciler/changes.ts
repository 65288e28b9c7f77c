import { EventEmitter } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Wakeup } from './wakeup.ts';

/** A watcher that hears nothing looks again after this long: counts may have changed by another process. */
const idleMs = 15_000;

const anyRun = Symbol('any run');

/** Tells watchers of this process that the ledger has changed for a run. */
export class RunChanges {
  readonly #emitter = new EventEmitter().setMaxListeners(0);

  notify(runId: string): void {
    this.#emitter.emit(runId);
    this.#emitter.emit(anyRun, runId);
  }

  /**
   * Yields the runs that have changed since the last time, at most once in `intervalMs`; none at all when nobody said
   * anything for a while. Ends when the signal aborts.
   */
  async *watchAll(
    intervalMs: number,
    signal: AbortSignal,
  ): AsyncGenerator<ReadonlySet<string>, void, undefined> {
    const wakeup = new Wakeup();
    let changed = new Set<string>();
    const note = (runId: string): void => {
      changed.add(runId);
      wakeup.ring();
    };
    this.#emitter.on(anyRun, note);
    try {
      while (!signal.aborted) {
        await wakeup.wait(idleMs, signal);
        const seen = changed;
        changed = new Set();
        yield seen;
        await sleep(intervalMs, undefined, { signal }).catch(() => undefined);
      }
    } finally {
      this.#emitter.off(anyRun, note);
    }
  }

  /**
   * Yields once at the beginning and then after every change, at most once in `intervalMs`; changes in between are one.
   * Ends when the signal aborts.
   */
  async *watch(
    runId: string,
    intervalMs: number,
    signal: AbortSignal,
  ): AsyncGenerator<void, void, undefined> {
    const wakeup = new Wakeup();
    const ring = (): void => wakeup.ring();
    this.#emitter.on(runId, ring);
    try {
      while (!signal.aborted) {
        yield;
        // An aborted sleep rejects; the loop's condition sees the abort.
        await sleep(intervalMs, undefined, { signal }).catch(() => undefined);
        await wakeup.wait(idleMs, signal);
      }
    } finally {
      this.#emitter.off(runId, ring);
    }
  }
}
