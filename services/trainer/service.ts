import { invalidArgument } from '@plumb/kit/errors';
import type { Implementation } from '@plumb/kit/rpc';
import type { TrainerService } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Jobs } from './domain/jobs.ts';

/** TrainerService over the domain. */
export function trainerService(jobs: Jobs): Implementation<typeof TrainerService> {
  return {
    createJob: async ({ spec, idempotencyKey }) => ({ job: await jobs.create(spec, idempotencyKey) }),
    getJob: ({ id }) => ({ job: jobs.get(id) }),
    async *watchJob({ id, afterStep }, { signal }) {
      if (afterStep < 0)
        throw invalidArgument('after_step', `is ${afterStep}; use 0 for everything, or the last step seen`);
      for await (const event of jobs.watch(id, afterStep, signal)) yield { event };
    },
    // The key of CancelJob is not needed: cancelling twice is cancelling once.
    cancelJob: async ({ id }, { signal }) => ({ job: await jobs.cancel(id, signal) }),
    listJobs({ pageSize, pageToken, runId }) {
      const size = pageSize === 0 ? 50 : pageSize;
      if (size < 1 || size > 1000)
        throw invalidArgument('page_size', `is ${pageSize}; use 1 to 1000, or 0 for 50`);
      const all = jobs.list().filter(({ spec }) => runId === '' || spec?.runId === runId);
      const place = pageToken === '' ? -1 : all.findIndex(({ id }) => id === pageToken);
      if (pageToken !== '' && place < 0) {
        throw invalidArgument('page_token', 'is not one of this list; begin again without it');
      }
      const page = all.slice(place + 1, place + 1 + size);
      const more = place + 1 + size < all.length;
      return { jobs: page, nextPageToken: more ? (page.at(-1)?.id ?? '') : '' };
    },
  };
}
