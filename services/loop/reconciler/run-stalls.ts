import { SpanStatusCode } from '@opentelemetry/api';
import { streamNames } from '@plumb/kit/bus';
import { describeError, PlumbError } from '@plumb/kit/errors';
import { startSpan } from '@plumb/kit/telemetry';
import { JobState } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { latestProgress } from '../adapters/ledger/iterations.ts';
import type { LoadedIteration } from '../adapters/loaded-iteration.ts';
import { groups } from '../domain/groups.ts';
import { likelyCause, StallWatch } from '../domain/stall.ts';
import type { StageWork, StallChange, StallSigns, WatchedStage } from '../domain/stall.ts';
import { loopMetrics } from '../metrics.ts';
import { loopLogger, loopTracer } from './context.ts';
import type { LoopContext } from './context.ts';
import { iterationAttributes, iterationContext } from './iteration-trace.ts';

const workers = { generate: 'generator', score: 'reward' } as const;

/** Tells of the stages of one run that stand still: a warning, a span in the iteration's trace, and metrics. */
export class RunStalls {
  readonly #loop: LoopContext;
  readonly #runId: string;
  readonly #watch: StallWatch;

  constructor(loop: LoopContext, runId: string) {
    this.#loop = loop;
    this.#runId = runId;
    this.#watch = new StallWatch(loop.stallBudgets);
  }

  /** Takes a look at the ledger. */
  async look(loaded: LoadedIteration): Promise<void> {
    const work = { ...sampling(loaded), train: await this.#training(loaded) };
    for (const change of this.#watch.look(work, performance.now())) await this.#tell(change, loaded);
  }

  /** The run is no longer driven here. */
  end(): void {
    for (const stage of this.#watch.end()) loopMetrics.stalledStages.add(-1, { 'plumb.stage': stage });
  }

  async #training({ job }: LoadedIteration): Promise<StageWork> {
    if (job?.row.state !== 'running') return { left: 0, done: 0 };
    const done = (await latestProgress(this.#loop.database, job.row.id))?.step ?? 0;
    const steps = job.job.spec?.optimisation?.steps ?? 0;
    // After its last step a job still writes its checkpoint.
    return { left: Math.max(1, steps - done), done };
  }

  async #tell({ stage, kind, left, idleSeconds }: StallChange, loaded: LoadedIteration): Promise<void> {
    const key = { runId: this.#runId, iteration: loaded.row.iteration };
    const attributes = { 'plumb.stage': stage };
    if (kind === 'moving') {
      loopMetrics.stalledStages.add(-1, attributes);
      loopLogger.info({ ...key, stage, idleSeconds }, `${stage} moves again`);
      return;
    }
    loopMetrics.stalledStages.add(1, attributes);
    loopMetrics.stalls.add(1, attributes);
    const cause = likelyCause(stage, await this.#signs(stage, loaded));
    const parent = await iterationContext(this.#loop, key);
    const { span } = startSpan(loopTracer, 'stall', {
      parent,
      startTime: new Date(Date.now() - idleSeconds * 1000),
      attributes: { ...iterationAttributes(key), ...attributes, 'plumb.stall.cause': cause },
    });
    span.addEvent('plumb.stall', { ...attributes, 'plumb.stall.cause': cause, 'plumb.stall.left': left });
    span.setStatus({ code: SpanStatusCode.ERROR, message: `${stage} makes no progress: ${cause}` });
    span.end();
    loopLogger.warn(
      { ...key, stage, left, idleSeconds: Math.round(idleSeconds), cause },
      `${stage} has made no progress for ${Math.round(idleSeconds)} s: ${cause}`,
    );
  }

  async #signs(stage: WatchedStage, { job }: LoadedIteration): Promise<StallSigns> {
    if (stage === 'train') {
      return { job: job?.job.state === JobState.PENDING ? 'pending' : 'running' };
    }
    try {
      return { queue: await this.#loop.bus.queueDepth(streamNames.tasks, workers[stage]) };
    } catch (thrown) {
      // A queue that cannot be asked is a sign of its own.
      if (PlumbError.from(thrown).code !== 'NOT_FOUND') {
        loopLogger.debug({ error: describeError(thrown) }, 'the queue of a stalled stage cannot be asked');
      }
      return {};
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
