import { context } from '@opentelemetry/api';
import type { Context, Link } from '@opentelemetry/api';
import { subjects } from '@plumb/kit/bus';
import { PlumbError } from '@plumb/kit/errors';
import { contextFromCarrier, currentCarrier, linkTo, startSpan, withSpan } from '@plumb/kit/telemetry';
import type { RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { GenerationTaskSchema, ScoringTaskSchema } from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import { markPublished, nextToPublish } from '../adapters/ledger/samples.ts';
import type { DueSample } from '../adapters/ledger/samples.ts';
import { videoFromText } from '../adapters/messages.ts';
import { categoryOf } from '../domain/categories.ts';
import { splitOf } from '../domain/groups.ts';
import type { Group } from '../domain/groups.ts';
import type { Queue } from '../domain/plan.ts';
import { needsLatents, rewardsOf, samplerOf } from '../domain/sample-plan.ts';
import { loopTracer } from './context.ts';
import type { LoopContext } from './context.ts';
import { iterationAttributes } from './iteration-trace.ts';
import { reuseSamples } from './reuse.ts';

/** Tasks of one look at the ledger; also OpenTelemetry's limit of links in one span. */
const publishBatch = 128;

/** What the tasks of an iteration are made from. */
export interface PublishOptions {
  readonly runId: string;
  readonly iteration: number;
  readonly spec: RunSpec;
  /** The model of each group; undefined where it is not known yet. */
  readonly models: Readonly<Record<Group, ModelVersion | undefined>>;
  readonly queue: Queue;
  /** Most tasks to enqueue. */
  readonly limit: number;
  /** The iteration's trace. */
  readonly parent: Context;
  readonly signal: AbortSignal;
}

/**
 * Enqueues what is due, up to the limit, and remembers it; samples whose clip is there already take it over. Dying in between
 * is harmless: the next attempt has the same message id. Gives how many samples moved on, and how many of them took a clip
 * over; throws the bus's error, after remembering what did go out, when a queue is full or the broker away.
 */
export async function publishDue(
  loop: LoopContext,
  options: PublishOptions,
): Promise<{ readonly moved: number; readonly reused: number }> {
  let moved = 0;
  let reused = 0;
  while (moved < options.limit && !options.signal.aborted) {
    const due = await nextToPublish(loop.database, {
      runId: options.runId,
      iteration: options.iteration,
      queue: options.queue,
      limit: Math.min(publishBatch, options.limit - moved),
    });
    if (due.length === 0) break;
    const mayReuse = options.queue === 'generate' && !options.spec.noReuse;
    const taken = mayReuse ? await reuseSamples(loop, options, due) : new Set<string>();
    const fresh = due.filter(({ id }) => !taken.has(id));
    if (fresh.length > 0) await publishBatchOf(loop, options, fresh);
    moved += due.length;
    reused += taken.size;
  }
  return { moved, reused };
}

async function publishBatchOf(
  loop: LoopContext,
  options: PublishOptions,
  rows: readonly DueSample[],
): Promise<void> {
  await withSpan(
    loopTracer,
    'plan',
    {
      parent: options.parent,
      attributes: {
        ...iterationAttributes(options),
        'plumb.queue': options.queue,
        'messaging.batch.message_count': rows.length,
      },
    },
    async (span) => {
      const iterationLink = linkTo(currentCarrier());
      const outcomes = await Promise.allSettled(
        rows.map(async (row) => {
          const traceparent = await inSampleTrace(row, iterationLink, async () => {
            endWait(loop, row);
            await publishTask(loop, options, row);
          });
          return { id: row.id, traceparent };
        }),
      );
      const published = outcomes.flatMap((outcome) =>
        outcome.status === 'fulfilled' ? [outcome.value] : [],
      );
      for (const { traceparent } of published) {
        const link = traceparent === undefined ? undefined : linkTo({ traceparent });
        if (link !== undefined) span.addLink(link);
      }
      await markPublished(loop.database, options.queue, published, new Date());
      const failed = outcomes.find((outcome) => outcome.status === 'rejected');
      if (failed !== undefined) throw PlumbError.from(failed.reason);
    },
  );
}

/** Runs in the trace of the sample's life, which begins here when it has none; gives its traceparent. */
async function inSampleTrace(
  row: DueSample,
  iterationLink: Link | undefined,
  body: () => Promise<void>,
): Promise<string | undefined> {
  if (row.traceparent !== null) {
    await context.with(contextFromCarrier({ traceparent: row.traceparent }), body);
    return row.traceparent;
  }
  const attributes = {
    ...iterationAttributes({ runId: row.run_id, iteration: row.iteration }),
    'plumb.sample.id': row.id,
    'plumb.prompt.id': row.prompt_id,
    'plumb.category': row.category,
    'plumb.model.version': row.model_version,
  };
  return await withSpan(
    loopTracer,
    'sample',
    { root: true, links: [iterationLink], attributes },
    async () => {
      await body();
      return currentCarrier()['traceparent'];
    },
  );
}

/** The time that a clip waited to be planned for is a span of its own. */
function endWait(loop: LoopContext, row: DueSample): void {
  const startTime = loop.arrivals.take(row.id);
  if (startTime === undefined) return;
  const attributes = { 'plumb.sample.id': row.id };
  startSpan(loopTracer, 'wait for plan', { startTime, attributes }).span.end();
}

async function publishTask(loop: LoopContext, options: PublishOptions, row: DueSample): Promise<void> {
  const { bus } = loop;
  const identity = {
    sampleId: row.id,
    runId: row.run_id,
    iteration: row.iteration,
    prompt: {
      id: row.prompt_id,
      text: row.prompt_text,
      category: categoryOf(row.category),
      split: splitOf(row.grp),
    },
  };
  const { signal } = options;
  if (options.queue === 'generate') {
    const model = options.models[row.grp];
    if (model === undefined) throw new TypeError(`no model is known for samples of group ${row.grp}`);
    await bus.publish(
      subjects.taskGenerate,
      GenerationTaskSchema,
      {
        ...identity,
        sampleIndex: row.sample_index,
        seed: BigInt(row.seed),
        model,
        sampler: samplerOf(options.spec, row.grp),
        storeLatents: needsLatents(model, row.grp),
      },
      { id: `${row.id}.generate.${row.generate_attempts + 1}`, signal },
    );
  } else {
    if (row.video === null) throw new TypeError(`sample ${row.id} has no clip to be scored`);
    await bus.publish(
      subjects.taskScore,
      ScoringTaskSchema,
      {
        ...identity,
        video: videoFromText(row.video),
        rewards: [...rewardsOf(options.spec, row.grp)],
        // Held-out judges answer for evaluations alone; training groups are refused by the judge service itself.
        evaluation: row.grp !== 'train',
      },
      { id: `${row.id}.score.${row.score_attempts + 1}`, signal },
    );
  }
}
