import type { Bus } from '@plumb/kit/bus';
import { jsonCodec, messageCodec } from '@plumb/kit/bus';
import { JobSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { z } from 'zod';
import { PlumbError } from '@plumb/kit/errors';
import { hasEnded } from '../domain/job-feed.ts';
import type { JobStore } from '../domain/job-store.ts';
import { pointsCodec } from './points-codec.ts';

/**
 * The bucket of jobs: `job.<id>`, `resume.<id>`, `points.<id>.<last step>`, and `live.<id>` with the points since then of a
 * job that runs in another process.
 */
export const jobsBucket = 'plumb_jobs';
/** Points of one value: the broker takes 1 MiB, a point needs about 120 bytes. */
const pointsPerValue = 2000;

/** How long a write waits for a broker that is away, in milliseconds: a step of training is worth more than a quick error. */
const deadlineMs = 120_000;

const savedStateSchema = z.strictObject({
  step: z.int().min(0),
  state: z.strictObject({ uri: z.string(), sha256: z.string(), mediaType: z.string(), size: z.number() }),
});
const resumePointSchema = savedStateSchema.extend({
  threads: z.int().min(1),
  good: savedStateSchema.optional(),
});

/** Jobs in JetStream's key-value store; writes wait for a broker that is away. */
export async function openJobStore(bus: Bus): Promise<JobStore> {
  const jobs = await bus.keyValue(jobsBucket, messageCodec(JobSchema), { deadlineMs });
  const resumePoints = await bus.keyValue(jobsBucket, jsonCodec(resumePointSchema), { deadlineMs });
  const points = await bus.keyValue(jobsBucket, pointsCodec, { deadlineMs });
  /** Changes a job that has not ended, whoever writes it at the same time; gives what is there then. */
  const unlessEnded = async (id: string, change: (standing: Job | undefined) => Job): Promise<Job> => {
    for (;;) {
      const standing = await jobs.get(`job.${id}`);
      if (standing !== undefined && hasEnded(standing.value.state)) return standing.value;
      const job = change(standing?.value);
      try {
        if (standing === undefined) await jobs.create(`job.${id}`, job);
        else await jobs.update(`job.${id}`, job, standing.revision);
        return job;
      } catch (thrown) {
        // Somebody wrote in between: what they wrote decides.
        const { code } = PlumbError.from(thrown);
        if (code !== 'ABORTED' && code !== 'ALREADY_EXISTS') throw thrown;
      }
    }
  };
  return {
    async create(job) {
      await jobs.create(`job.${job.id}`, job);
    },
    async put(job) {
      await jobs.put(`job.${job.id}`, job);
    },
    end: (job) => unlessEnded(job.id, () => job),
    place: (job, placement) => unlessEnded(job.id, (standing) => ({ ...(standing ?? job), placement })),
    async get(id) {
      return (await jobs.get(`job.${id}`))?.value;
    },
    async all() {
      return (await jobs.entries('job.*')).map(({ value }) => value);
    },
    async resumePoint(id) {
      return (await resumePoints.get(`resume.${id}`))?.value;
    },
    async putResumePoint(id, point) {
      await resumePoints.put(`resume.${id}`, point);
    },
    async deleteResumePoint(id) {
      await resumePoints.delete(`resume.${id}`);
    },
    async resumePoints() {
      return (await resumePoints.entries('resume.*')).map(({ value }) => value);
    },
    async points(id) {
      const values = await points.entries(`points.${id}.*`);
      // Values may overlap after a crash between points and checkpoint; what was written last is the same or newer.
      const byStep = new Map(
        values
          .toSorted((a, b) => a.revision - b.revision)
          .flatMap(({ value }) => value.map((point) => [point.step, point])),
      );
      return [...byStep.values()].toSorted((a, b) => a.step - b.step);
    },
    async putPoints(id, added) {
      for (let start = 0; start < added.length; start += pointsPerValue) {
        const part = added.slice(start, start + pointsPerValue);
        await points.put(`points.${id}.${part.at(-1)?.step ?? 0}`, part);
      }
    },
  };
}
