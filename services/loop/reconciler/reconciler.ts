import { describeError } from '@plumb/kit/errors';
import type { PlumbError } from '@plumb/kit/errors';
import { listRunningRuns } from '../adapters/ledger/runs.ts';
import { loopLogger } from './context.ts';
import type { LoopContext } from './context.ts';
import { RunDriver } from './run-driver.ts';

/** Keeps one driver for every run that is running. */
export class Reconciler {
  readonly #loop: LoopContext;
  readonly #stop = new AbortController();
  readonly #drivers = new Map<string, { driver: RunDriver; abort: AbortController; done: Promise<void> }>();
  readonly #halted = new Map<string, PlumbError>();

  constructor(loop: LoopContext) {
    this.#loop = loop;
  }

  /** Takes up the runs that the ledger holds as running. */
  async start(): Promise<void> {
    for (const runId of await listRunningRuns(this.#loop.database)) this.drive(runId);
  }

  /** Drives a run, unless it is driven already. */
  drive(runId: string): void {
    if (this.#drivers.has(runId) || this.#stop.signal.aborted) return;
    this.#halted.delete(runId);
    const abort = new AbortController();
    const driver = new RunDriver(this.#loop, runId, AbortSignal.any([this.#stop.signal, abort.signal]));
    const done = this.#follow(runId, driver);
    this.#drivers.set(runId, { driver, abort, done });
  }

  async #follow(runId: string, driver: RunDriver): Promise<void> {
    try {
      const end = await driver.drive();
      if (end.kind === 'halted') this.#halted.set(runId, end.error);
    } catch (thrown) {
      loopLogger.error({ runId, error: describeError(thrown) }, 'a driver ended by a defect');
    } finally {
      this.#drivers.delete(runId);
      this.#loop.changes.notify(runId);
    }
  }

  /** Results of a run have arrived. */
  wake(runId: string): void {
    this.#drivers.get(runId)?.driver.wake();
  }

  /** Stops driving a run, and waits until its driver has put its things down. */
  async release(runId: string): Promise<void> {
    const entry = this.#drivers.get(runId);
    entry?.abort.abort();
    await entry?.done;
    this.#halted.delete(runId);
  }

  /** Why a run stands still although the ledger says that it is running: the ledger could not be written. */
  haltedBy(runId: string): PlumbError | undefined {
    return this.#halted.get(runId);
  }

  /** Stops all drivers; the runs stay running in the ledger, and the next process goes on with them. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await Promise.all([...this.#drivers.values()].map(({ done }) => done));
  }
}
