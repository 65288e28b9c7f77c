import type { Bus } from '@plumb/kit/bus';
import { messageCodec } from '@plumb/kit/bus';
import { JobSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job, TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { jobsBucket } from '../job-store.ts';
import { pointsCodec } from '../points-codec.ts';

/** What another process writes of a job. */
export interface JobRecords {
  /** Calls back with what is there and with every change, until the signal aborts. */
  follow(
    id: string,
    on: {
      readonly job: (job: Job) => void;
      /** Some points, in order of steps; they may have come before. */
      readonly points: (points: readonly TrainingProgress[]) => void;
    },
    signal: AbortSignal,
  ): Promise<void>;
}

/** Job records in JetStream's key-value store. */
export async function openJobRecords(bus: Bus): Promise<JobRecords> {
  const jobs = await bus.keyValue(jobsBucket, messageCodec(JobSchema));
  const points = await bus.keyValue(jobsBucket, pointsCodec);
  return {
    async follow(id, on, signal) {
      const records = async (): Promise<void> => {
        for await (const { value } of jobs.watch({ key: `job.${id}`, signal })) {
          if (value !== undefined) on.job(value);
        }
      };
      const values = async (key: string): Promise<void> => {
        for await (const { value } of points.watch({ key, signal })) {
          if (value !== undefined) on.points(value);
        }
      };
      await Promise.all([records(), values(`points.${id}.*`), values(`live.${id}`)]);
    },
  };
}
