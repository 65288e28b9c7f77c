import type { Job, TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { JobState } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';

/** What a watcher sees. */
export type JobEvent =
  | { readonly case: 'progress'; readonly value: TrainingProgress }
  | { readonly case: 'job'; readonly value: Job };

/** True when nothing can happen to a job any more. */
export function hasEnded(state: JobState): boolean {
  return state === JobState.SUCCEEDED || state === JobState.FAILED || state === JobState.CANCELLED;
}

/**
 * A job's record and its points, and those who watch them. Points are kept once: a watcher is a place in the list, so a
 * slow one holds nothing back and takes no memory of its own.
 */
export class JobFeed {
  #job: Job;
  #points: TrainingProgress[] = [];
  #changed = Promise.withResolvers<void>();

  constructor(job: Job, points: readonly TrainingProgress[] = []) {
    this.#job = job;
    this.#points = [...points];
  }

  get job(): Job {
    return this.#job;
  }

  /** In order of steps. */
  get points(): readonly TrainingProgress[] {
    return this.#points;
  }

  setJob(job: Job): void {
    this.#job = job;
    this.#wake();
  }

  add(point: TrainingProgress): void {
    this.#points.push(point);
    this.#wake();
  }

  /** Goes back to a checkpoint: the points after it will be made again. */
  rewind(step: number): void {
    this.#points = this.#points.filter((point) => point.step <= step);
  }

  /**
   * The job, then its points after a step, then what comes: each point once and the job at every change of its state or of
   * what its cluster does with it.
   * Ends when the job has ended, with the job as it ended.
   */
  async *watch(afterStep: number, signal: AbortSignal): AsyncGenerator<JobEvent, void, void> {
    let seen = afterStep;
    let told: string | undefined;
    // Wakes every watcher of the job, which does the others no harm.
    const onAbort = (): void => {
      this.#wake();
    };
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      while (!signal.aborted) {
        const changed = this.#changed.promise;
        if (told === undefined && !hasEnded(this.#job.state)) {
          told = standingOf(this.#job);
          yield { case: 'job', value: this.#job };
        }
        // By step and not by place: after a rewind the list is shorter, and what was seen comes again.
        for (let place = this.#firstAfter(seen); place < this.#points.length; place++) {
          const point = this.#points[place];
          if (point === undefined || point.step <= seen) continue;
          seen = point.step;
          yield { case: 'progress', value: point };
        }
        const { state } = this.#job;
        if (hasEnded(state) && this.#points.every(({ step }) => step <= seen)) {
          yield { case: 'job', value: this.#job };
          return;
        }
        if (standingOf(this.#job) !== told) {
          told = standingOf(this.#job);
          yield { case: 'job', value: this.#job };
        }
        await changed;
      }
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  #firstAfter(step: number): number {
    // From the end: a watcher is nearly always near it.
    let place = this.#points.length;
    while (place > 0 && (this.#points[place - 1]?.step ?? 0) > step) place--;
    return place;
  }

  #wake(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers<void>();
  }
}

/** What watchers are told of when it changes. */
function standingOf({ state, placement }: Job): string {
  return `${state} ${placement?.phase ?? ''}`;
}
