import { setTimeout as delay } from 'node:timers/promises';
import { PlumbError } from '@plumb/kit/errors';
import type { RpcClient } from '@plumb/kit/rpc';
import type { Job, TrainerService, TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { JobState } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { isAboutTheRequest } from '../runs/loop-client.ts';

/** Pause before a job is watched again whose stream was cut, in milliseconds. */
const retryPauseMs = 300;

/** True when nothing can happen to a job any more. */
export function hasEnded({ state }: Job): boolean {
  return state === JobState.SUCCEEDED || state === JobState.FAILED || state === JobState.CANCELLED;
}

/**
 * Follows a job, through restarts of the trainer, until it has ended. Every point comes once.
 * @returns the job as it ended
 */
export async function followJob(
  trainer: RpcClient<typeof TrainerService>,
  id: string,
  on: { readonly job: (job: Job) => void; readonly point: (point: TrainingProgress) => void },
  signal: AbortSignal,
): Promise<Job> {
  let afterStep = 0;
  for (;;) {
    try {
      for await (const { event } of trainer.watchJob({ id, afterStep }, { signal })) {
        if (event.case === 'progress') {
          afterStep = event.value.step;
          on.point(event.value);
        } else if (event.case === 'job') {
          on.job(event.value);
          if (hasEnded(event.value)) return event.value;
        }
      }
    } catch (error) {
      // A stream is cut in several ways when its server is killed.
      if (signal.aborted || isAboutTheRequest(PlumbError.from(error))) throw error;
    }
    await delay(retryPauseMs, undefined, { signal });
  }
}
