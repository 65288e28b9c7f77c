import type { Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';

/** The rewards that samples of a run may have a score of. */
export function rewardsOf({ spec }: Run): readonly string[] {
  return [
    ...new Set([
      ...(spec?.rewards ?? []),
      spec?.evaluation?.reward ?? '',
      spec?.evaluation?.heldOutReward ?? '',
      ...(spec?.evaluation?.guards ?? []),
    ]),
  ].filter((reward) => reward !== '');
}
