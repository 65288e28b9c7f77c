import { createClient } from '@plumb/kit/rpc';
import type { RpcClient } from '@plumb/kit/rpc';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { runningComponents } from '../state/running-system.ts';
import { existingStateFolder } from '../state/state-folder.ts';
import { withSystem } from '../with-system.ts';

/** Where the reward service is. */
export interface RewardOptions {
  readonly state: string;
  /** host:port of one that runs already. */
  readonly address?: string;
}

/**
 * Does some work with a reward service: the one at an address, that of the system which runs in the state folder, or one
 * that is started with judge and referee for the work alone.
 * @returns the exit code
 */
export async function withReward(
  { state, address }: RewardOptions,
  work: (reward: RpcClient<typeof RewardService>, signal: AbortSignal | undefined) => Promise<void>,
): Promise<number> {
  const use = async (at: string, signal?: AbortSignal): Promise<void> => {
    const reward = createClient(RewardService, at, { waitForReady: true, defaultDeadlineMs: 300_000 });
    try {
      await work(reward, signal);
    } finally {
      reward.close();
    }
  };
  const folder = await existingStateFolder(state);
  const running = folder === undefined ? undefined : await runningComponents(folder);
  const known = address ?? running?.find(({ name }) => name === 'reward')?.address;
  if (known !== undefined) {
    await use(known);
    return 0;
  }
  return withSystem(
    {
      state,
      fresh: false,
      ports: {},
      only: ['nats-server', 'referee', 'judge', 'reward'],
      command: 'score',
      notice: (line) => {
        process.stderr.write(`${line}\n`);
      },
      stopNotice: 'Stopping.',
    },
    async () => {},
    ({ addresses }, _, signal) => use(addresses.reward, signal),
  );
}
