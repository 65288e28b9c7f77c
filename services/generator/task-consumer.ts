import { create } from '@bufbuild/protobuf';
import { timestampNow } from '@bufbuild/protobuf/wkt';
import { SpanKind, trace } from '@opentelemetry/api';
import { streamNames, subjects } from '@plumb/kit/bus';
import type { Bus, Consumption } from '@plumb/kit/bus';
import {
  failedPrecondition,
  invalidArgument,
  invalidArguments,
  PlumbError,
  toStatus,
} from '@plumb/kit/errors';
import { tracer, withSpan } from '@plumb/kit/telemetry';
import {
  GenerationTaskSchema,
  SampleFailedSchema,
  SampleGeneratedSchema,
} from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import type { GenerationTask } from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import type { StoredClip } from './adapters/clip-artifacts.ts';
import type { ClipRequest, Generation } from './domain/generation.ts';
import { samplerViolations, weightsOf } from './domain/models.ts';

/** Name of the durable consumer that all generators share. */
const durable = 'generator';

/**
 * Consumes generation tasks: samples, stores, publishes, and only then acknowledges. A task that is delivered again
 * gives the same clip under the same message id, so that it counts once.
 * @param options maxInFlight: tasks under way at a time; several batches' worth keeps the engine busy while clips are stored
 */
export function consumeTasks(
  bus: Bus,
  generation: Generation<StoredClip>,
  options: { readonly maxInFlight: number; readonly ackWaitMs: number; readonly signal: AbortSignal },
): Promise<Consumption> {
  const spans = tracer('plumb-generator');
  return bus.consume(
    {
      stream: streamNames.tasks,
      durable,
      subject: subjects.taskGenerate,
      schema: GenerationTaskSchema,
      maxInFlight: options.maxInFlight,
      ackWaitMs: options.ackWaitMs,
      signal: options.signal,
      failed: async (task, error, { id }) => {
        await publishFailure(bus, task, error, id);
      },
    },
    async (task, { id, signal }) => {
      const request = clipRequestOf(task);
      const attributes = attributesOf(task);
      const stored = await withSpan(spans, 'generate', { kind: SpanKind.INTERNAL, attributes }, async () => {
        try {
          return await generation.generate(request, { priority: 'bulk', signal });
        } catch (error) {
          throw needsSomebody(error);
        }
      });
      const generated = create(SampleGeneratedSchema, {
        sampleId: task.sampleId,
        runId: task.runId,
        iteration: task.iteration,
        video: stored.video,
        preview: stored.preview,
        ...(stored.latents === undefined ? {} : { latents: stored.latents }),
        modelVersion: request.model.version,
        generateTime: timestampNow(),
        traceId: trace.getActiveSpan()?.spanContext().traceId ?? '',
      });
      await bus.publish(subjects.sampleGenerated, SampleGeneratedSchema, generated, {
        id: `${id}.generated`,
        signal,
      });
    },
  );
}

/** @throws PlumbError INVALID_ARGUMENT for a task that cannot be sampled as it is */
function clipRequestOf(task: GenerationTask): ClipRequest {
  if (task.sampleId === '') throw invalidArgument('sample_id', 'is empty; every task names its sample');
  const violations = samplerViolations(task.sampler, 'sampler');
  const caption = task.prompt?.text ?? '';
  if (caption.trim() === '') {
    violations.push({ field: 'prompt.text', description: 'is empty; say what the clip shall show' });
  }
  if (violations.length > 0 || task.sampler === undefined) throw invalidArguments(violations);
  const { steps, guidance, shift } = task.sampler;
  return {
    model: weightsOf(task.model, 'model'),
    sampler: { steps, guidance, shift },
    caption,
    seed: task.seed,
    account: task.runId,
    storeLatents: task.storeLatents,
  };
}

/** A full disk is not emptied by waiting, and every try would sample the clip anew: the sample fails, and its run pauses. */
function needsSomebody(thrown: unknown): unknown {
  if (!(thrown instanceof PlumbError) || thrown.reason !== 'DISK_FULL') return thrown;
  return failedPrecondition('the disk of the artifact store is full; free some space', {
    reason: 'DISK_FULL',
    cause: thrown,
  });
}

function attributesOf(task: GenerationTask): Record<string, string | number> {
  return {
    'plumb.run.id': task.runId,
    'plumb.iteration': task.iteration,
    'plumb.sample.id': task.sampleId,
    'plumb.prompt.id': task.prompt?.id ?? '',
    'plumb.model.version': task.model?.version ?? '',
  };
}

/** By the task's id and not the sample's: the failure of a later attempt is news, which the broker must not take for a double. */
async function publishFailure(
  bus: Bus,
  task: GenerationTask,
  thrown: unknown,
  taskId: string,
): Promise<void> {
  const failed = create(SampleFailedSchema, {
    sampleId: task.sampleId,
    runId: task.runId,
    iteration: task.iteration,
    stage: 'generate',
    status: toStatus(PlumbError.from(thrown)),
  });
  await bus.publish(subjects.sampleFailed, SampleFailedSchema, failed, {
    id: `${taskId}.failed`,
  });
}
