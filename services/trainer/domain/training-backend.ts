import type { JobFeed } from './job-feed.ts';
import { runJob } from './job-runner.ts';
import type { RunnerOptions } from './job-runner.ts';

/** Where jobs run; docs/kubernetes-training.md compares them. */
export const backendNames = ['local', 'kubernetes-job', 'kubeflow'] as const;
export type BackendName = (typeof backendNames)[number];

/** What brings jobs to their end. */
export interface TrainingBackend {
  readonly name: BackendName;
  /** Jobs that it takes at a time; the others wait in the order of their creation. */
  readonly concurrency: number;
  /**
   * Brings a job to its end, or goes on with one that was begun before this process: resolves when its end is recorded and
   * the feed has it. When the signal aborts with CANCELLED, the job ends so; with any other reason it is left where it is,
   * to be gone on with.
   */
  run(feed: JobFeed, signal: AbortSignal): Promise<void>;
}

/** Training in an engine of this process's own, one job at a time. */
export function localBackend(options: RunnerOptions): TrainingBackend {
  return { name: 'local', concurrency: 1, run: (feed, signal) => runJob(feed, signal, options) };
}
