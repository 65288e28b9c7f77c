/** The reward service: the Reward API and the scoring of tasks from the queue. Wiring only. */

import { runService, startFoundation } from '@plumb/kit/lifecycle';
import { addService } from '@plumb/kit/rpc';
import { openClipSource, openArtifactStore } from '@plumb/media';
import { JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { aiFeedback } from './adapters/ai-feedback.ts';
import { createClipReader } from './adapters/clip-reader.ts';
import { hostedReward } from './adapters/hosted-reward.ts';
import { openRewardSet } from './adapters/reward-set.ts';
import { consumeScoringTasks } from './adapters/bulk-scoring.ts';
import { publishHealth } from './adapters/reward-health.ts';
import { scoringTelemetry } from './adapters/scoring-telemetry.ts';
import { rewardSettings } from './config.ts';
import { createScoring } from './domain/scoring.ts';
import { rewardService } from './service.ts';

/** Largest clip that is read by its URI, in bytes as encoded: 256 MiB. */
const largestFetchedClip = 2 ** 28;

await runService({
  name: 'reward',
  start: async (context) => {
    const { config, bus, server, connect, serve } = await startFoundation(context, rewardSettings, {
      name: 'reward',
      // Room for a call of several inline clips of 4 MiB.
      maxReceiveBytes: 32 * 2 ** 20,
    });
    // A verdict is not asked for again here: the judge has done so as often as may help, and the caller or the queue will.
    const judge = connect(JudgeService, config.judgeAddress, { retry: ['listJudges', 'listEndpoints'] });

    const source = openClipSource({
      artifacts: await openArtifactStore(config.artifacts, config),
      prefixes: config.clipPrefixes,
      maxBytes: largestFetchedClip,
    });
    const clips = createClipReader(source, { maxPixels: config.maxClipPixels, maxFrames: config.maxFrames });
    const scoring = createScoring([], scoringTelemetry());
    const rewards = await openRewardSet(scoring, {
      folder: config.rewards,
      everyMs: config.rewardsEverySeconds * 1000,
      loadWithinMs: 120_000,
      signal: context.signal,
      open: (located) =>
        located.definition.kind === 'ai-feedback'
          ? aiFeedback(located.definition, judge, {
              concurrency: config.aifConcurrency,
              deadlineMs: config.aifDeadlineSeconds * 1000,
            })
          : hostedReward(
              located,
              config.intraOpThreads === undefined ? {} : { intraOpThreads: config.intraOpThreads },
            ),
    });
    context.onStop('rewards', () => rewards.close(), { deadlineMs: 15_000 });
    addService(
      server,
      RewardService,
      rewardService({ scoring, rewards, clips, maxInlineBytesHeld: config.maxInlineBytesHeld }),
    );
    const addresses = await serve();
    publishHealth(server, scoring, context.signal);
    const tasks = await consumeScoringTasks(bus, scoring, clips, {
      maxInFlight: config.bulkConcurrency,
      signal: context.signal,
    });
    context.onStop('tasks', () => tasks.stop(), { deadlineMs: 15_000 });
    return addresses;
  },
});
