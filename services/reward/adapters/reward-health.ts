/** gRPC health of each reward, under plumb.reward.v1.RewardService/<name>. */

import type { RpcServer } from '@plumb/kit/rpc';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { RewardScorer } from '../domain/reward-scorer.ts';

const everyMs = 1000;

/** Keeps the health service up to date until the signal aborts. One reward that is down leaves the others alone. */
export function publishHealth(
  server: RpcServer,
  rewards: readonly RewardScorer[],
  signal: AbortSignal,
): void {
  const publish = (): void => {
    for (const reward of rewards) {
      server.setHealth(
        `${RewardService.typeName}/${reward.info.name}`,
        reward.state().serving ? 'SERVING' : 'NOT_SERVING',
      );
    }
  };
  publish();
  const timer = setInterval(publish, everyMs);
  timer.unref();
  signal.addEventListener('abort', () => clearInterval(timer), { once: true });
}
