/** The bulk path: scoring tasks in, scored samples out. */

import { trace } from '@opentelemetry/api';
import { timestampNow } from '@bufbuild/protobuf/wkt';
import { streamNames, subjects } from '@plumb/kit/bus';
import type { Bus, Consumption, Delivery } from '@plumb/kit/bus';
import { invalidArguments, toStatus, unavailable } from '@plumb/kit/errors';
import type { FieldViolation, PlumbError } from '@plumb/kit/errors';
import { videoViolations } from '@plumb/media';
import {
  SampleFailedSchema,
  SampleScoredSchema,
  ScoringTaskSchema,
} from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import type { ScoringTask } from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import type { Scoring } from '../domain/scoring.ts';
import { promptViolations } from '../domain/prompt-violations.ts';
import type { ClipReader } from './clip-reader.ts';
import { outcomeMessage } from './outcome-message.ts';
import { scoringItem } from './scoring-item.ts';

/** Settings of the bulk path. */
export interface BulkOptions {
  /** Tasks that are worked on at a time. */
  readonly maxInFlight: number;
  readonly signal: AbortSignal;
}

// At 30 s from one delivery to the next a task waits a week for a judge before it goes to the dead letters.
const maxDeliveries = 20_000;
const backoffMs = { first: 500, max: 30_000 };
/** What a killed reward service held goes to another one after this long, in milliseconds. */
const ackWaitMs = 10_000;

/** Starts to consume scoring tasks. */
export async function consumeScoringTasks(
  bus: Bus,
  scoring: Scoring,
  clips: ClipReader,
  { maxInFlight, signal }: BulkOptions,
): Promise<Consumption> {
  return bus.consume(
    {
      stream: streamNames.tasks,
      durable: 'reward',
      subject: subjects.taskScore,
      schema: ScoringTaskSchema,
      maxInFlight,
      maxDeliveries,
      backoffMs,
      ackWaitMs,
      signal,
      failed: async (task, error, delivery) => {
        await bus.publish(
          subjects.sampleFailed,
          SampleFailedSchema,
          {
            sampleId: task.sampleId,
            runId: task.runId,
            iteration: task.iteration,
            stage: 'score',
            status: toStatus(error),
          },
          { id: `${delivery.id}.failed` },
        );
      },
    },
    (task, delivery) => scoreTask(task, delivery, bus, scoring, clips),
  );
}

/**
 * Scores one task and publishes what came out.
 *
 * An outcome that may be another one later (the judge is away, its endpoint is misconfigured, this process stops) is not
 * published: the error is thrown, the task is delivered again, and rewards that did score answer from their caches. Any
 * other failure is published as what it is.
 */
async function scoreTask(
  task: ScoringTask,
  delivery: Delivery,
  bus: Bus,
  scoring: Scoring,
  clips: ClipReader,
): Promise<void> {
  const { video, prompt } = task;
  const violations: FieldViolation[] = [
    ...videoViolations(video, 'video', clips.source.refusal?.bind(clips.source), clips.limits),
    ...promptViolations(prompt, 'prompt'),
  ];
  if (task.rewards.length === 0)
    violations.push({ field: 'rewards', description: 'is empty; name at least one reward' });
  if (violations.length > 0 || video === undefined || prompt === undefined)
    throw invalidArguments(violations);
  const item = scoringItem(
    {
      video,
      prompt,
      runId: task.runId,
      field: 'video',
      signal: delivery.signal,
      deadline: undefined,
      evaluation: task.evaluation,
    },
    clips,
  );
  const outcomes = await Promise.all(task.rewards.map((reward) => scoring.score(reward, item, 'bulk')));
  for (const { result } of outcomes) {
    if ('error' in result && waits(result.error)) throw later(result.error);
  }
  await bus.publish(
    subjects.sampleScored,
    SampleScoredSchema,
    {
      sampleId: task.sampleId,
      runId: task.runId,
      iteration: task.iteration,
      outcomes: outcomes.map(outcomeMessage),
      scoreTime: timestampNow(),
      traceId: trace.getActiveSpan()?.spanContext().traceId ?? '',
    },
    // The task's own id: a redelivery publishes the same message, another attempt of the loop another one.
    { id: `${delivery.id}.scored` },
  );
}

function waits(error: PlumbError): boolean {
  return error.retryable || error.code === 'CANCELLED' || error.reason === 'JUDGE_MISCONFIGURED';
}

/** The same error in a form that is delivered again. */
function later(error: PlumbError): PlumbError {
  if (error.retryable) return error;
  return unavailable(error.message, { reason: error.reason, metadata: error.metadata, cause: error });
}
