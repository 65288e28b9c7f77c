import type { Job, JobPlacement, TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { ResumePoint } from './training-run.ts';

/** Where jobs are kept. Writes are durable when they resolve. */
export interface JobStore {
  /** @throws PlumbError ALREADY_EXISTS */
  create(job: Job): Promise<void>;
  put(job: Job): Promise<void>;
  /** Writes a job that has ended, unless one that has ended is there; gives what is there then. */
  end(job: Job): Promise<Job>;
  /** Notes where a job is going to run, unless it has ended; gives what is there then. */
  place(job: Job, placement: JobPlacement): Promise<Job>;
  get(id: string): Promise<Job | undefined>;
  all(): Promise<Job[]>;
  resumePoint(id: string): Promise<ResumePoint | undefined>;
  putResumePoint(id: string, point: ResumePoint): Promise<void>;
  deleteResumePoint(id: string): Promise<void>;
  /** Of all jobs. */
  resumePoints(): Promise<ResumePoint[]>;
  /** In order of steps, each step once. */
  points(id: string): Promise<TrainingProgress[]>;
  /** Adds points; a step that is there already is replaced. */
  putPoints(id: string, points: readonly TrainingProgress[]): Promise<void>;
}
