import type { RpcClient } from '@plumb/kit/rpc';
import type { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';

/** What a score depends on besides the clip and the prompt. */
export interface RewardVersion {
  readonly version: string;
  readonly weightsHash: string;
}

/**
 * The versions that rewards have at present, by name; undefined where nobody can be asked. A reward that is not serving is
 * left out.
 */
export type RewardVersions = (
  names: readonly string[],
  signal: AbortSignal,
) => Promise<ReadonlyMap<string, RewardVersion> | undefined>;

/** Without an address of the reward service there is no telling: scores are never taken over, clips still are. */
export const noRewardVersions: RewardVersions = () => Promise.resolve(undefined);

/** Asks the reward service. */
export function rewardVersionsOf(client: RpcClient<typeof RewardService>): RewardVersions {
  return async (names, signal) => {
    const found = new Map<string, RewardVersion>();
    for (const name of names) {
      const { reward } = await client.getReward({ name }, { signal });
      if (reward !== undefined && reward.weightsHash !== '') {
        found.set(name, { version: reward.version, weightsHash: reward.weightsHash });
      }
    }
    return found;
  };
}
