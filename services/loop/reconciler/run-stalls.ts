import { SpanStatusCode } from '@opentelemetry/api';
import { streamNames } from '@plumb/kit/bus';
import { describeError, PlumbError } from '@plumb/kit/errors';
import { contextFromCarrier, startSpan } from '@plumb/kit/telemetry';
import { JobState } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { latestProgress } from '../adapters/ledger/iterations.ts';
import type { LoadedIteration } from '../adapters/loaded-iteration.ts';
import { queueWorkers } from '../adapters/queue-depths.ts';
import { groups } from '../domain/groups.ts';
import { causeAtJudge, likelyCause, StallWatch } from '../domain/stall.ts';
import type { StageWork, StallChange, StallSigns, WatchedStage } from '../domain/stall.ts';
import { loopMetrics } from '../metrics.ts';
import { loopLogger, loopTracer } from './context.ts';
import type { LoopContext } from './context.ts';
import { iterationAttributes } from './iteration-trace.ts';

/** A step that the loop does itself, once. */
export type Step = 'freeze' | 'train' | 'evaluate' | 'gate';

/** Time between two looks, in milliseconds. */
const lookMs = 1000;
/** A sign that takes longer is none, in milliseconds. */
const signMs = 2000;

/** What one look at the ledger said of the stages that others work in. */
interface Counts {
  readonly loaded: LoadedIteration;
  readonly generate: StageWork;
  readonly score: StageWork;
  /** Undefined while no job runs. */
  readonly job: StageWork | undefined;
}

/**
 * Tells of the stages of one run that stand still: a warning, a span in the iteration's trace, metrics, and the board that
 * views show. The driver says what it does; the looks have a clock of their own, as a driver that hangs takes none.
 */
export class RunStalls {
  readonly #loop: LoopContext;
  readonly #runId: string;
  readonly #watch: StallWatch;
  readonly #timer: NodeJS.Timeout;
  #counts: Counts | undefined;
  /** Reads of the ledger that have ended, and whether one is under way or has failed. */
  #ledger = { reads: 0, open: false };
  readonly #steps: Record<Step, number> = { freeze: 0, train: 0, evaluate: 0, gate: 0 };
  /** The step under way, or the one that the last pass failed in. */
  #step: Step | undefined;
  #failure: string | undefined;
  #telling: Promise<void> = Promise.resolve();

  constructor(loop: LoopContext, runId: string) {
    this.#loop = loop;
    this.#runId = runId;
    this.#watch = new StallWatch(loop.stallBudgets);
    this.#timer = setInterval(() => {
      this.#look();
    }, lookMs);
    this.#timer.unref();
  }

  /** A pass begins; it reads the ledger first. */
  passBegan(): void {
    this.#ledger = { ...this.#ledger, open: true };
  }

  /** The ledger has been read. */
  async read(loaded: LoadedIteration): Promise<void> {
    this.#counts = { loaded, ...sampling(loaded), job: await this.#job(loaded) };
    this.#ledger = { reads: this.#ledger.reads + 1, open: false };
  }

  /** Does a step. */
  async during(step: Step, body: () => Promise<void>): Promise<void> {
    this.#step = step;
    await body();
    this.#steps[step] += 1;
    this.#step = undefined;
  }

  /** A pass has ended well, or failed; a failed one is tried again. */
  passEnded(thrown?: unknown): void {
    this.#failure = thrown === undefined ? undefined : describeError(thrown);
    if (thrown === undefined) this.#step = undefined;
  }

  /** The run is no longer driven here. */
  async end(): Promise<void> {
    clearInterval(this.#timer);
    await this.#telling;
    this.#loop.stalls.forget(this.#runId);
  }

  #look(): void {
    for (const change of this.#watch.look(this.#work(), performance.now())) {
      // One after the other: a stage that moves again is told of after its stall.
      this.#telling = this.#telling.then(() => this.#tell(change));
    }
  }

  #work(): Partial<Record<WatchedStage, StageWork>> {
    const steps = (step: Step): StageWork => ({
      left: this.#step === step ? 1 : 0,
      done: this.#steps[step],
    });
    const { open, reads } = this.#ledger;
    const ledger = { left: open ? 1 : 0, done: reads };
    // While the ledger is silent nothing is known of what others do.
    if (open || this.#counts === undefined) return { ledger };
    const { generate, score, job } = this.#counts;
    return {
      generate,
      score,
      // Scored clips are what the judge has to show for itself; its signs say whether it is to blame.
      judge: score,
      freeze: steps('freeze'),
      train: job ?? steps('train'),
      evaluate: steps('evaluate'),
      gate: steps('gate'),
      ledger,
    };
  }

  async #job({ job }: LoadedIteration): Promise<StageWork | undefined> {
    if (job?.row.state !== 'running') return undefined;
    const done = (await latestProgress(this.#loop.database, job.row.id))?.step ?? 0;
    const steps = job.job.spec?.optimisation?.steps ?? 0;
    // After its last step a job still writes its checkpoint.
    return { left: Math.max(1, steps - done), done };
  }

  async #tell({ stage, kind, left, idleSeconds }: StallChange): Promise<void> {
    const loaded = this.#counts?.loaded;
    const key = { runId: this.#runId, iteration: loaded?.row.iteration ?? 0 };
    if (kind === 'moving') {
      this.#loop.stalls.clear(this.#runId, stage);
      this.#loop.changes.notify(this.#runId);
      loopLogger.info({ ...key, stage, idleSeconds }, `${stage} moves again`);
      return;
    }
    const signs = await this.#signs(stage);
    if (stage === 'judge' && causeAtJudge(signs.judge) === undefined) {
      this.#watch.forgive(stage, performance.now());
      return;
    }
    const cause = likelyCause(stage, signs);
    const since = new Date(Date.now() - idleSeconds * 1000);
    loopMetrics.stalls.add(1, { 'plumb.stage': stage });
    this.#loop.stalls.set(this.#runId, { stage, cause, since, left });
    this.#loop.changes.notify(this.#runId);
    const said = {
      'plumb.stage': stage,
      'plumb.stall.kind': cause.kind,
      'plumb.stall.cause': cause.text,
    };
    // What the ledger said last, without asking it: it may be what stands still.
    const traceparent = loaded?.row.traceparent ?? undefined;
    const { span } = startSpan(loopTracer, 'stall', {
      ...(traceparent === undefined ? { root: true } : { parent: contextFromCarrier({ traceparent }) }),
      startTime: since,
      attributes: { ...iterationAttributes(key), ...said },
    });
    span.addEvent('plumb.stall', { ...said, 'plumb.stall.left': left });
    span.setStatus({ code: SpanStatusCode.ERROR, message: `${stage} makes no progress: ${cause.text}` });
    span.end();
    loopLogger.warn(
      { ...key, stage, left, idleSeconds: Math.round(idleSeconds), kind: cause.kind, cause: cause.text },
      `${stage} has made no progress for ${Math.round(idleSeconds)} s: ${cause.text}`,
    );
  }

  async #signs(stage: WatchedStage): Promise<StallSigns> {
    const failure = this.#failure === undefined ? {} : { failure: this.#failure };
    const job = this.#counts?.job;
    switch (stage) {
      case 'generate':
        return { ...failure, queue: await this.#queue(stage) };
      case 'score':
        return {
          ...failure,
          queue: await this.#queue(stage),
          judge: await this.#loop.judgeSigns(this.#runId),
        };
      case 'judge':
        return { judge: await this.#loop.judgeSigns(this.#runId) };
      case 'train': {
        const pending = this.#counts?.loaded.job?.job.state === JobState.PENDING;
        return job === undefined ? failure : { job: pending ? 'pending' : 'running' };
      }
      case 'freeze':
      case 'evaluate':
      case 'gate':
      case 'ledger':
        return failure;
    }
  }

  /** The queue of a stage; undefined where the broker does not say in time, or knows of no worker. */
  async #queue(stage: 'generate' | 'score'): Promise<StallSigns['queue']> {
    const late = Promise.withResolvers<undefined>();
    const timer = setTimeout(() => {
      late.resolve(undefined);
    }, signMs);
    try {
      return await Promise.race([
        this.#loop.bus.queueDepth(streamNames.tasks, queueWorkers[stage]),
        late.promise,
      ]);
    } catch (thrown) {
      // A queue that cannot be asked is a sign of its own.
      if (PlumbError.from(thrown).code !== 'NOT_FOUND') {
        loopLogger.info({ error: describeError(thrown) }, 'the queue of a stalled stage cannot be asked');
      }
      return undefined;
    } finally {
      clearTimeout(timer);
    }
  }
}

function sampling({ groups: counts, candidate }: LoadedIteration): Record<'generate' | 'score', StageWork> {
  const active = groups
    .filter((group) => group !== 'after' || candidate !== undefined)
    .map((group) => counts[group]);
  const sum = (pick: (one: (typeof active)[number]) => number): number =>
    active.reduce((total, one) => total + pick(one), 0);
  const scored = sum(({ scored: done, failed }) => done + failed);
  return {
    generate: {
      left: sum(({ generating }) => generating),
      done: sum(({ toScore, scoring }) => toScore + scoring) + scored,
    },
    score: { left: sum(({ scoring }) => scoring), done: scored },
  };
}
