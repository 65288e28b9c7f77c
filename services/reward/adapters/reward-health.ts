/** gRPC health of each reward, under plumb.reward.v1.RewardService/<name>. */

import { gauge } from '@plumb/kit/telemetry';
import type { RpcServer } from '@plumb/kit/rpc';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { Scoring } from '../domain/scoring.ts';

const servingNow = gauge('@plumb/reward-service', 'plumb.reward.serving', {
  description: '1 while a reward can score, 0 while it cannot',
  unit: '1',
});

const everyMs = 500;

/** Keeps the health service up to date until the signal aborts. One reward that is down leaves the others alone. */
export function publishHealth(server: RpcServer, scoring: Scoring, signal: AbortSignal): void {
  const known = new Set<string>();
  const publish = (): void => {
    const serving = new Set(
      scoring.rewards.filter((reward) => reward.state().serving).map(({ info }) => info.name),
    );
    for (const { info } of scoring.rewards) known.add(info.name);
    // One that was taken away is still asked about.
    for (const name of known) {
      servingNow.record(serving.has(name) ? 1 : 0, { 'plumb.reward': name });
      server.setHealth(`${RewardService.typeName}/${name}`, serving.has(name) ? 'SERVING' : 'NOT_SERVING');
    }
  };
  publish();
  const timer = setInterval(publish, everyMs);
  timer.unref();
  signal.addEventListener('abort', () => clearInterval(timer), { once: true });
}
