import { streamNames } from '@plumb/kit/bus';
import { describeError, internal, PlumbError } from '@plumb/kit/errors';
import type { Budgets, RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { isStorageFailure, ledgerError } from '../adapters/ledger/database-error.ts';
import { addActiveSeconds, advanceIteration, findRun, finishRun, moveRun } from '../adapters/ledger/runs.ts';
import type { RunRow } from '../adapters/ledger/runs.ts';
import {
  commonestError,
  countSamples,
  insertSamples,
  takeBackPublished,
} from '../adapters/ledger/samples.ts';
import { errorToText, specFromText } from '../adapters/messages.ts';
import { queueWorkers } from '../adapters/queue-depths.ts';
import { budgetsOf, spendSoFar } from '../adapters/run-spend.ts';
import { budgetExhausted, budgetLimits } from '../domain/budget.ts';
import { plan, tooManyErrors } from '../domain/plan.ts';
import type { Action, IterationSnapshot, PlanLimits, Queue } from '../domain/plan.ts';
import type { Group } from '../domain/groups.ts';
import { defaultMaxErrorShare } from '../domain/run-spec.ts';
import { plannedSamples } from '../domain/sample-plan.ts';
import { loopLogger } from './context.ts';
import type { LoopContext } from './context.ts';
import { iterationContext } from './iteration-trace.ts';
import { publishDue } from './publishing.ts';
import { loadIteration, snapshotOf } from '../adapters/loaded-iteration.ts';
import type { LoadedIteration } from '../adapters/loaded-iteration.ts';
import {
  applyDecision,
  awaitedHumanLabels,
  decideCandidate,
  evaluateCandidate,
  freezeDataSet,
  registerCandidate,
} from './stages.ts';
import { writeRunManifest } from './run-manifest.ts';
import { RunStalls } from './run-stalls.ts';
import { createTrainingJob, watchTrainingJob } from './training.ts';
import { Wakeup } from './wakeup.ts';

/** Shortest time between two looks at the ledger, in milliseconds: many results that arrive together cost one look. */
const shortestPassMs = 300;
/** Longest time between two looks, in milliseconds. */
const longestPassMs = 1_000;
/** Wait after the first error that may pass by itself, in milliseconds; it doubles up to the longest. */
const firstBackoffMs = 500;
const longestBackoffMs = 15_000;
/** Working time is written down this often, in seconds; a kill loses no more than that. */
const activeFlushSeconds = 2;

/** How a driver ended by itself. */
export type DriverEnd = { readonly kind: 'ended' } | { readonly kind: 'halted'; readonly error: PlumbError };

/**
 * Drives one run: looks at the ledger, plans, acts, waits for results, and looks again, until the run is no longer running.
 * It keeps nothing that matters in memory: whoever starts it anew goes on where the ledger stands.
 */
export class RunDriver {
  readonly #loop: LoopContext;
  readonly #runId: string;
  readonly #signal: AbortSignal;
  readonly #wakeup = new Wakeup();
  readonly #background = new AbortController();
  #watched: { readonly jobId: string; readonly done: Promise<void> } | undefined;
  #watchFailure: PlumbError | undefined;
  #spec: RunSpec | undefined;
  #lastResultAt: Record<Queue, number> = { generate: performance.now(), score: performance.now() };
  #lastCounts: Record<Queue, number> = { generate: 0, score: 0 };
  #activeSince = performance.now();
  readonly #stalls: RunStalls;

  constructor(loop: LoopContext, runId: string, signal: AbortSignal) {
    this.#loop = loop;
    this.#runId = runId;
    this.#signal = signal;
    this.#stalls = new RunStalls(loop, runId);
  }

  /** Something has changed: look soon. */
  wake(): void {
    this.#wakeup.ring();
  }

  /** Resolves when the run is no longer running, or the signal has aborted. Never rejects. */
  async drive(): Promise<DriverEnd> {
    let failures = 0;
    let end: DriverEnd | undefined;
    while (end === undefined && !this.#signal.aborted) {
      const startedAt = performance.now();
      let wait: number;
      try {
        const outcome = await this.#pass();
        this.#stalls.passEnded();
        if (outcome === 'ended') end = { kind: 'ended' };
        failures = 0;
        wait = outcome === 'again' ? 0 : longestPassMs;
      } catch (thrown) {
        if (this.#signal.aborted) break;
        const error = ledgerError(thrown);
        this.#stalls.passEnded(error);
        if (error.retryable && !isStorageFailure(error)) {
          failures += 1;
          wait = error.retryAfterMs ?? Math.min(firstBackoffMs * 2 ** (failures - 1), longestBackoffMs);
          loopLogger.warn(
            { runId: this.#runId, error: describeError(thrown), waitMs: wait },
            'a pass failed; trying again',
          );
        } else {
          loopLogger.error(
            { runId: this.#runId, error: describeError(thrown) },
            'a pass failed; the run pauses',
          );
          end = await this.#stopRun('paused', error);
          wait = 0;
        }
      }
      if (end !== undefined) break;
      if (wait === 0) continue;
      const spent = performance.now() - startedAt;
      await pause(Math.max(0, shortestPassMs - spent), this.#signal);
      await this.#wakeup.wait(wait, this.#signal);
    }
    await this.#stalls.end();
    this.#background.abort();
    await this.#watched?.done;
    await this.#flushActive(true);
    this.#loop.changes.notify(this.#runId);
    return end ?? { kind: 'ended' };
  }

  async #pass(): Promise<'ended' | 'again' | 'waiting'> {
    if (this.#watchFailure !== undefined) throw this.#watchFailure;
    this.#stalls.passBegan();
    const run = await findRun(this.#loop.database, this.#runId);
    if (run === undefined) throw internal(new Error(`run ${this.#runId} is not in the ledger`));
    if (run.state !== 'running') return 'ended';
    await this.#flushActive(false);
    this.#spec ??= specFromText(run.spec);
    const loaded = await loadIteration(this.#loop.database, run, this.#spec);
    await this.#stalls.read(loaded);
    const limits = await this.#limits(this.#spec, run);
    const actions = plan(snapshotOf(loaded, this.#idleSeconds(loaded)), limits);
    let again = false;
    for (const action of actions) {
      if (this.#signal.aborted) return 'waiting';
      again = (await this.#perform(action, loaded)) || again;
    }
    if (actions.length > 0) this.#loop.changes.notify(this.#runId);
    return again ? 'again' : 'waiting';
  }

  /** True when more is due because of it, so that another look is due at once. */
  async #perform(action: Action, loaded: LoadedIteration): Promise<boolean> {
    const loop = this.#loop;
    const iteration = loaded.row.iteration;
    const key = { runId: this.#runId, iteration };
    switch (action.kind) {
      case 'insert-samples':
        await this.#insertSamples(action.group, loaded);
        return true;
      case 'publish':
        return await this.#publish(action, loaded);
      case 'republish':
        return await this.#takeBack(action.queue, iteration);
      case 'freeze': {
        const awaited = await awaitedHumanLabels(loop, loaded);
        if (awaited === undefined) await this.#stalls.during('freeze', () => freezeDataSet(loop, loaded));
        else await this.#stopRun('paused', awaited);
        return true;
      }
      case 'train':
        await this.#stalls.during('train', () => createTrainingJob(loop, loaded, this.#signal));
        return true;
      case 'watch-training':
        this.#watchTraining(loaded);
        return false;
      case 'register':
        await this.#stalls.during('train', () => registerCandidate(loop, loaded));
        return true;
      case 'evaluate':
        await this.#stalls.during('evaluate', () => evaluateCandidate(loop, loaded));
        return true;
      case 'decide':
        await this.#stalls.during('gate', () => decideCandidate(loop, loaded));
        return true;
      case 'apply':
        await this.#stalls.during('gate', () => applyDecision(loop, loaded));
        return true;
      case 'next-iteration':
        await advanceIteration(loop.database, { ...key, ended: iteration, now: new Date() });
        return true;
      case 'finish':
        await this.#flushActive(true);
        await finishRun(loop.database, {
          ...key,
          ended: iteration,
          manifest: await writeRunManifest(loop, loaded),
          now: new Date(),
        });
        return true;
      case 'pause':
        await this.#stopRun('paused', await this.#pauseReason(action, loaded));
        return true;
      case 'fail':
        await this.#stopRun('failed', action.error);
        return true;
    }
  }

  async #pauseReason(
    { error, errorsOf }: Extract<Action, { kind: 'pause' }>,
    { row, spec, groups }: LoadedIteration,
  ): Promise<PlumbError> {
    if (errorsOf === undefined) return error;
    const { iteration } = row;
    const commonest = await commonestError(this.#loop.database, this.#runId, iteration, errorsOf);
    return tooManyErrors(
      errorsOf,
      { groups, iteration },
      spec.maxErrorShare ?? defaultMaxErrorShare,
      commonest,
    );
  }

  async #insertSamples(group: Group, loaded: LoadedIteration): Promise<void> {
    const model = group === 'after' ? loaded.candidate : loaded.model;
    if (model === undefined) throw new TypeError(`no model is known for samples of group ${group}`);
    const { spec } = loaded;
    const planned = plannedSamples({
      spec,
      runId: this.#runId,
      iteration: loaded.row.iteration,
      group,
      model,
    });
    await insertSamples(this.#loop.database, planned, new Date());
  }

  async #publish(action: Extract<Action, { kind: 'publish' }>, loaded: LoadedIteration): Promise<boolean> {
    const key = { runId: this.#runId, iteration: loaded.row.iteration };
    const { moved, reused } = await publishDue(this.#loop, {
      ...key,
      spec: loaded.spec,
      models: { train: loaded.model, before: loaded.model, after: loaded.candidate },
      queue: action.queue,
      limit: action.limit,
      parent: await iterationContext(this.#loop, key),
      signal: this.#signal,
    });
    if (moved > 0) this.#lastResultAt[action.queue] = performance.now();
    // What is enqueued takes its time; a clip that was taken over waits to be scored.
    return reused > 0;
  }

  async #takeBack(queue: Queue, iteration: number): Promise<boolean> {
    this.#lastResultAt[queue] = performance.now();
    // Tasks that wait, or are in work, are not lost, however long they take.
    if (!(await this.#isDrained(queue))) return false;
    const before = new Date(Date.now() - this.#loop.republishAfterSeconds * 1000);
    const taken = await takeBackPublished(this.#loop.database, {
      runId: this.#runId,
      iteration,
      queue,
      before,
    });
    if (taken > 0) {
      loopLogger.warn(
        { runId: this.#runId, queue, tasks: taken },
        'tasks brought no result; enqueuing them again',
      );
    }
    return taken > 0;
  }

  /** True when the workers' queue holds nothing. A queue that no worker has asked of yet holds what was put there. */
  async #isDrained(queue: Queue): Promise<boolean> {
    try {
      const depth = await this.#loop.bus.queueDepth(streamNames.tasks, queueWorkers[queue]);
      return depth.waiting === 0 && depth.inFlight === 0;
    } catch (thrown) {
      if (PlumbError.from(thrown).code === 'NOT_FOUND') return false;
      throw thrown;
    }
  }

  #watchTraining(loaded: LoadedIteration): void {
    const jobId = loaded.job?.row.id;
    if (jobId === undefined || this.#watched?.jobId === jobId) return;
    const signal = AbortSignal.any([this.#signal, this.#background.signal]);
    const done = watchTrainingJob(this.#loop, { runId: this.#runId, jobId, signal })
      .catch((thrown: unknown) => {
        // The next pass throws it, which decides between another try and a pause.
        this.#watchFailure = ledgerError(thrown);
      })
      .finally(() => this.#wakeup.ring());
    this.#watched = { jobId, done };
  }

  async #stopRun(to: 'paused' | 'failed', error: PlumbError): Promise<DriverEnd> {
    try {
      await moveRun(this.#loop.database, {
        id: this.#runId,
        from: ['running'],
        to,
        error: errorToText(error),
        now: new Date(),
      });
      return { kind: 'ended' };
    } catch (thrown) {
      // The ledger cannot even say that the run is paused: this process remembers it.
      loopLogger.error(
        { runId: this.#runId, error: describeError(thrown) },
        'the pause cannot be written down',
      );
      return { kind: 'halted', error };
    }
  }

  #idleSeconds(loaded: LoadedIteration): IterationSnapshot['idleSeconds'] {
    const all = Object.values(loaded.groups);
    const now = performance.now();
    const counts: Record<Queue, number> = {
      generate: all.reduce((sum, c) => sum + c.toScore + c.scoring + c.scored + c.failed, 0),
      score: all.reduce((sum, c) => sum + c.scored + c.failed, 0),
    };
    for (const queue of ['generate', 'score'] as const) {
      if (counts[queue] !== this.#lastCounts[queue]) this.#lastResultAt[queue] = now;
    }
    this.#lastCounts = counts;
    return {
      generate: (now - this.#lastResultAt.generate) / 1000,
      score: (now - this.#lastResultAt.score) / 1000,
    };
  }

  async #limits(spec: RunSpec, run: RunRow): Promise<PlanLimits> {
    const budgets = budgetsOf(run, spec);
    const limits =
      budgets === undefined
        ? {}
        : budgetLimits(
            spec,
            budgets,
            await spendSoFar(this.#loop.database, run, await countSamples(this.#loop.database, run.id)),
          );
    const judge = await this.#judgeBudget(budgets);
    return {
      ...limits,
      ...(judge === undefined ? {} : { budget: judge }),
      iterations: spec.iterations,
      maxErrorShare: spec.maxErrorShare ?? defaultMaxErrorShare,
      maxOutstanding: this.#loop.maxOutstanding,
      republishAfterSeconds: this.#loop.republishAfterSeconds,
      sequential: spec.sequential,
    };
  }

  /** Why the judges have to wait; undefined while they need not. */
  async #judgeBudget(budgets: Budgets | undefined): Promise<PlumbError | undefined> {
    if (budgets === undefined || (budgets.judgeTokens === 0n && budgets.cost === 0)) return undefined;
    const { exhausted, tokens, cost, currency } = await this.#loop.judgeBudgets.spend(this.#runId);
    if (!exhausted) return undefined;
    return budgetExhausted(
      budgets.judgeTokens > 0n ? 'judge_tokens' : 'cost',
      'judge tokens or money',
      `${tokens} tokens and ${cost} ${currency} are spent`,
    );
  }

  async #flushActive(whole: boolean): Promise<void> {
    const seconds = (performance.now() - this.#activeSince) / 1000;
    if (!whole && seconds < activeFlushSeconds) return;
    try {
      await addActiveSeconds(this.#loop.database, this.#runId, seconds);
      this.#activeSince = performance.now();
    } catch (thrown) {
      // A pass reports the ledger's trouble; at the end of a run two seconds of working time are not worth failing for.
      if (!whole) throw thrown;
      loopLogger.warn(
        { runId: this.#runId, error: describeError(thrown) },
        'working time could not be written down',
      );
    }
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (ms > 0) await new Wakeup().wait(ms, signal);
}
