/** The reward service: the Reward API and the scoring of tasks from the queue. Wiring only. */

import { runService, startFoundation } from '@plumb/kit/lifecycle';
import { addService } from '@plumb/kit/rpc';
import { openFolderStore } from '@plumb/media';
import { JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { aiFeedback } from './adapters/ai-feedback.ts';
import { consumeScoringTasks } from './adapters/bulk-scoring.ts';
import { publishHealth } from './adapters/reward-health.ts';
import { scoringTelemetry } from './adapters/scoring-telemetry.ts';
import { rewardSettings } from './config.ts';
import { pixelGuards } from './domain/pixel-guards.ts';
import { createScoring } from './domain/scoring.ts';
import { rewardService } from './service.ts';

await runService({
  name: 'reward',
  start: async (context) => {
    const { config, bus, server, connect, serve } = await startFoundation(context, rewardSettings, {
      name: 'reward',
      // Room for a call of several inline clips of 4 MiB.
      maxReceiveBytes: 32 * 2 ** 20,
    });
    // A verdict is not asked for again here: the judge has done so as often as may help, and the caller or the queue will.
    const judge = connect(JudgeService, config.judgeAddress, { retry: ['listJudges'] });

    const artifacts = await openFolderStore(config.artifacts);
    const aif = aiFeedback(judge, {
      judge: config.aifJudge,
      concurrency: config.aifConcurrency,
      deadlineMs: config.aifDeadlineSeconds * 1000,
      signal: context.signal,
    });
    const scoring = createScoring([aif, ...pixelGuards()], scoringTelemetry());
    addService(server, RewardService, rewardService(scoring, artifacts));
    const addresses = await serve();
    publishHealth(server, scoring.rewards, context.signal);
    const tasks = await consumeScoringTasks(bus, scoring, artifacts, {
      maxInFlight: config.bulkConcurrency,
      signal: context.signal,
    });
    context.onStop('tasks', () => tasks.stop(), { deadlineMs: 15_000 });
    return addresses;
  },
});
