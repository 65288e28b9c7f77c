/** The reward service: the Reward API and the scoring of tasks from the queue. Wiring only. */

import { connectBus } from '@plumb/kit/bus';
import { loadConfig, splitAddress } from '@plumb/kit/config';
import { runService } from '@plumb/kit/lifecycle';
import { addService, createClient, createServer } from '@plumb/kit/rpc';
import { startTelemetry } from '@plumb/kit/telemetry';
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
    const config = loadConfig(rewardSettings, context.env);
    const metrics = splitAddress(config.metricsListen);
    const telemetry = await startTelemetry({
      service: 'plumb-reward',
      version: '0.1.0',
      spanDirectory: config.spanDirectory,
      metricsHost: metrics.host,
      metricsPort: metrics.port,
      logLevel: config.logLevel,
    });
    context.onStop('telemetry', () => telemetry.shutdown());
    const bus = await connectBus({ url: config.natsUrl, name: 'reward', signal: context.signal });
    context.onStop('bus', () => bus.close());
    await bus.ensureStreams();
    // A verdict is not asked for again here: the judge has done so as often as may help, and the caller or the queue will.
    const judge = createClient(JudgeService, config.judgeAddress, { retry: ['listJudges'] });
    context.onStop('judge client', () => judge.close());

    const artifacts = await openFolderStore(config.artifacts);
    const aif = aiFeedback(judge, {
      judge: config.aifJudge,
      concurrency: config.aifConcurrency,
      deadlineMs: config.aifDeadlineSeconds * 1000,
      signal: context.signal,
    });
    const scoring = createScoring([aif, ...pixelGuards()], scoringTelemetry());
    const server = createServer({
      ...splitAddress(config.listen),
      insecure: config.insecure,
      signal: context.signal,
      // Room for a call of several inline clips of 4 MiB.
      maxReceiveBytes: 32 * 2 ** 20,
    });
    addService(server, RewardService, rewardService(scoring, artifacts));
    const { address } = await server.listen();
    context.onStop('server', () => server.stop());
    publishHealth(server, scoring.rewards, context.signal);
    const tasks = await consumeScoringTasks(bus, scoring, artifacts, {
      maxInFlight: config.bulkConcurrency,
      signal: context.signal,
    });
    context.onStop('tasks', () => tasks.stop(), { deadlineMs: 15_000 });
    return { address, metrics: telemetry.metricsAddress };
  },
});
