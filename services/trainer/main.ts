import { runService, startFoundation } from '@plumb/kit/lifecycle';
import { addService } from '@plumb/kit/rpc';
import { openArtifactStore } from '@plumb/media';
import { pipelineCache } from '@plumb/pipelines';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { TrainerService } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { openEngine } from '@plumb/tensor-graph/engine';
import { openJobStore } from './adapters/job-store.ts';
import { progressEvents } from './adapters/progress-events.ts';
import { rewardScores } from './adapters/reward-scores.ts';
import type { openClusterBackend } from './adapters/cluster/open-cluster-backend.ts';
import { trainingPorts } from './adapters/training-artifacts.ts';
import { trainerSettings } from './config.ts';
import { Jobs } from './domain/jobs.ts';
import { localBackend } from './domain/training-backend.ts';
import type { TrainingBackend } from './domain/training-backend.ts';
import { recordStep } from './metrics.ts';
import { trainerService } from './service.ts';

await runService({
  name: 'trainer',
  start: async (ctx) => {
    const { config, bus, server, connect, serve } = await startFoundation(ctx, trainerSettings, {
      name: 'trainer',
    });

    const artifacts = await openArtifactStore(config.artifacts, config);
    const scoreClips =
      config.rewardAddress === undefined
        ? undefined
        : rewardScores(connect(RewardService, config.rewardAddress), artifacts, {
            deadlineMs: config.probeDeadlineSeconds * 1000,
          });
    const events = progressEvents(bus, ctx.logger);
    ctx.onStop('progress events', () => events.close());
    const store = await openJobStore(bus);
    const cache = await pipelineCache(config.pipelineCache);
    ctx.onStop('pipelines', () => cache.remove());
    const ports = trainingPorts(artifacts, {
      openEngine: (intraOpThreads) => openEngine({ form: config.engineForm, intraOpThreads }),
      threads: config.intraOpThreads,
      maxDataSetBytes: config.maxDataSetBytes,
      pipelines: { cache: cache.path, device: config.device },
      scoreClips,
    });
    const { checkpointEverySteps } = config;
    const runner = { store, ports, checkpointEverySteps, logger: ctx.logger };
    const backend =
      config.trainingBackend === 'local'
        ? localBackend({
            ...runner,
            onPoint: (point, runId) => {
              recordStep(point, runId);
              events.offer(point);
            },
          })
        : await openBackend(ctx, bus, config, config.trainingBackend, runner);
    const jobs = new Jobs({
      store,
      backend,
      scoresProbes: scoreClips !== undefined,
      checkpointEverySteps,
      onFatal: (error) => {
        ctx.fail(error);
      },
    });
    await jobs.start();
    // A job that runs here takes a checkpoint first, which lets the next process begin there.
    ctx.onStop('jobs', () => jobs.stop(), { deadlineMs: 15_000 });

    addService(server, TrainerService, trainerService(jobs));
    return await serve();
  },
});

/** The client of Kubernetes is large, so only those who use it load it. */
async function openBackend(...options: Parameters<typeof openClusterBackend>): Promise<TrainingBackend> {
  const { openClusterBackend } = await import('./adapters/cluster/open-cluster-backend.ts');
  return await openClusterBackend(...options);
}
