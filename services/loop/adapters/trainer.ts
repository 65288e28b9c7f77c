import type { MessageInitShape } from '@bufbuild/protobuf';
import { internal } from '@plumb/kit/errors';
import type { RpcClient } from '@plumb/kit/rpc';
import type { TrainerService } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job, JobSpecSchema, TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';

/** The trainer service, as the loop uses it. Every failure is a PlumbError. */
export interface Trainer {
  /** The same key gives the same job. */
  createJob(
    spec: MessageInitShape<typeof JobSpecSchema>,
    idempotencyKey: string,
    signal: AbortSignal,
  ): Promise<Job>;
  /** Progress after a step, and the job at every change of its state; ends when the job has ended. */
  watchJob(
    id: string,
    afterStep: number,
    signal: AbortSignal,
  ): AsyncIterable<{ readonly progress: TrainingProgress } | { readonly job: Job }>;
  /** Stops a job within one step. */
  cancelJob(id: string, signal: AbortSignal): Promise<void>;
}

/** The trainer behind a client. */
export function trainerOf(client: RpcClient<typeof TrainerService>): Trainer {
  return {
    async createJob(spec, idempotencyKey, signal) {
      const { job } = await client.createJob({ spec, idempotencyKey }, { signal });
      if (job === undefined) throw internal(new TypeError('CreateJob gave no job'));
      return job;
    },
    async *watchJob(id, afterStep, signal) {
      for await (const { event } of client.watchJob({ id, afterStep }, { signal })) {
        if (event.case === 'progress') yield { progress: event.value };
        else if (event.case === 'job') yield { job: event.value };
      }
    },
    async cancelJob(id, signal) {
      await client.cancelJob({ id, idempotencyKey: `cancel.${id}` }, { signal });
    },
  };
}
