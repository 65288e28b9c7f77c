import { describeError } from '@plumb/kit/errors';
import type { RpcClient } from '@plumb/kit/rpc';
import { logger } from '@plumb/kit/telemetry';
import type { JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';

const log = logger('plumb.loop.judge');

/** A reward whose judge is held out. */
export interface HeldOutReward {
  readonly reward: string;
  readonly judge: string;
}

/** Those of the rewards that no training may use, as their judges are held out. */
export type HeldOutJudges = (rewards: readonly string[]) => Promise<readonly HeldOutReward[]>;

/** Without the addresses of the reward and judge services nobody can be asked; the judge itself refuses such calls. */
export const noHeldOutJudges: HeldOutJudges = () => Promise.resolve([]);

/** Asks the reward service which judges the rewards ask, and the judge service which of them are held out. */
export function heldOutJudgesOf(
  rewards: RpcClient<typeof RewardService>,
  judges: RpcClient<typeof JudgeService>,
): HeldOutJudges {
  return async (names) => {
    try {
      const found: HeldOutReward[] = [];
      const { judges: known } = await judges.listJudges({});
      const heldOut = new Set(known.filter((judge) => judge.heldOut).map(({ name }) => name));
      const { rewards: served } = await rewards.listRewards({});
      for (const { name, judge } of served) {
        if (names.includes(name) && heldOut.has(judge)) found.push({ reward: name, judge });
      }
      return found;
    } catch (thrown) {
      // The run may be created while a service starts. Its judge refuses each call of training all the same.
      log.warn({ error: describeError(thrown) }, 'which judges are held out is not known at present');
      return [];
    }
  };
}
