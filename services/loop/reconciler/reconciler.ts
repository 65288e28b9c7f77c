import { setTimeout as sleep } from 'node:timers/promises';
import { describeError } from '@plumb/kit/errors';
import type { PlumbError } from '@plumb/kit/errors';
import { findRun, listRunningRuns, moveRun } from '../adapters/ledger/runs.ts';
import { errorToText } from '../adapters/messages.ts';
import { cancelTraining } from './cancel-training.ts';
import { loopLogger } from './context.ts';
import type { LoopContext } from './context.ts';
import { RunDriver } from './run-driver.ts';

/** A run that another process has made or resumed is taken up within this long, in milliseconds. */
const takeUpMs = 2_000;

/** Keeps one driver for every run that is running; of the processes that share a ledger, in the one that leads. */
export class Reconciler {
  readonly #loop: LoopContext;
  readonly #stop = new AbortController();
  readonly #drivers = new Map<string, { driver: RunDriver; abort: AbortController; done: Promise<void> }>();
  readonly #halted = new Map<string, PlumbError>();
  #leads = false;
  #takingUp: Promise<void> = Promise.resolve();

  constructor(loop: LoopContext) {
    this.#loop = loop;
  }

  /** Takes up the runs that the ledger holds as running, now and from now on, until the signal aborts. */
  async start(signal: AbortSignal): Promise<void> {
    const end = (): void => {
      this.#stop.abort();
    };
    signal.addEventListener('abort', end, { once: true });
    if (signal.aborted) end();
    this.#leads = true;
    await this.#takeUp();
    this.#takingUp = this.#keepTakingUp();
  }

  async #takeUp(): Promise<void> {
    for (const [runId, error] of this.#halted) {
      // Now that the ledger can be written, everybody shall see why the run stands still.
      const change = { id: runId, from: ['running'], to: 'paused', error: errorToText(error) } as const;
      await moveRun(this.#loop.database, { ...change, now: new Date() });
      this.#halted.delete(runId);
      this.#loop.changes.notify(runId);
    }
    for (const runId of await listRunningRuns(this.#loop.database)) this.drive(runId);
  }

  async #keepTakingUp(): Promise<void> {
    const { signal } = this.#stop;
    for (;;) {
      await sleep(takeUpMs, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return;
      try {
        await this.#takeUp();
      } catch (thrown) {
        loopLogger.warn({ error: describeError(thrown) }, 'the runs could not be taken up; trying again');
      }
    }
  }

  /** Drives a run, unless it is driven already; where another process leads, that one takes it up. */
  drive(runId: string): void {
    if (!this.#leads || this.#drivers.has(runId) || this.#stop.signal.aborted) return;
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
      else await this.#cancelLateJob(runId);
    } catch (thrown) {
      loopLogger.error({ runId, error: describeError(thrown) }, 'a driver ended by a defect');
    } finally {
      this.#drivers.delete(runId);
      this.#loop.changes.notify(runId);
    }
  }

  /** A run that another process cancelled may have got a job meanwhile. */
  async #cancelLateJob(runId: string): Promise<void> {
    const row = await findRun(this.#loop.database, runId);
    if (row?.state === 'cancelled') await cancelTraining(this.#loop, row);
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

  /** Why runs stand still although the ledger says that they are running, by run. */
  get halted(): ReadonlyMap<string, PlumbError> {
    return this.#halted;
  }

  /** Why a run stands still although the ledger says that it is running: the ledger could not be written. */
  haltedBy(runId: string): PlumbError | undefined {
    return this.#halted.get(runId);
  }

  /** Stops all drivers; the runs stay running in the ledger, and the next process goes on with them. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#takingUp;
    await Promise.all([...this.#drivers.values()].map(({ done }) => done));
  }
}
