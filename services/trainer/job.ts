/**
 * Runs one job of the trainer to its end and exits: what the pods of training jobs run. The job's record, its checkpoints and
 * its points are written where the trainer's own engine writes them, under the same ids, so a job may begin in one place and go
 * on in another. Exit codes: domain/exit-codes.ts.
 */

import path from 'node:path';
import { describeError, invalidArgument, PlumbError, unavailable } from '@plumb/kit/errors';
import { startFoundation, StopSequence } from '@plumb/kit/lifecycle';
import { contextFromCarrier, logger, tracer, withSpan, withWork } from '@plumb/kit/telemetry';
import { openArtifactStore } from '@plumb/media';
import { pipelineCache } from '@plumb/pipelines';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { JobState } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { openEngine } from '@plumb/tensor-graph/engine';
import type { z } from 'zod';
import { claimJob } from './adapters/cluster/claimed-job.ts';
import { livePoints } from './adapters/cluster/live-points.ts';
import { openJobStore } from './adapters/job-store.ts';
import { progressEvents } from './adapters/progress-events.ts';
import { rewardScores } from './adapters/reward-scores.ts';
import { followFirstPod, torchTrainee } from './adapters/torch-training.ts';
import type { TorchTraining } from './adapters/torch-training.ts';
import { trainingPorts } from './adapters/training-artifacts.ts';
import { trainingJobSettings } from './config.ts';
import { exitCodes } from './domain/exit-codes.ts';
import { JobFeed } from './domain/job-feed.ts';
import { runJob } from './domain/job-runner.ts';
import { recordStep } from './metrics.ts';

/** Longest time from SIGTERM to the end; less than the pod's grace period. */
const stopDeadlineMs = 50_000;

const log = logger('trainer-job');
const sequence = new StopSequence();
const stopping = new AbortController();

const stop = (signal: NodeJS.Signals): void => {
  if (stopping.signal.aborted) return;
  log.info({ signal }, 'stopping; the job goes on from a checkpoint');
  setTimeout(() => {
    log.error({ stopDeadlineMs }, 'stopping took too long; the process ends');
    process.exit(exitCodes.tryAgain);
  }, stopDeadlineMs).unref();
  stopping.abort(unavailable('the pod is stopping', { reason: 'SHUTTING_DOWN' }));
};
process.on('SIGTERM', stop);
process.on('SIGINT', stop);

/** Brings the job to its end; gives the exit code. */
async function run(id: string | undefined): Promise<number> {
  if (id === undefined) throw invalidArgument('job id', 'is missing; give the id of a job of the trainer');
  const { config, bus, connect } = await startFoundation(
    {
      env: process.env,
      signal: stopping.signal,
      logger: log,
      onStop: (name, undo, { deadlineMs = 5000 } = {}) => {
        sequence.add(name, undo, deadlineMs);
      },
      fail: (error) => {
        throw error;
      },
    },
    trainingJobSettings,
    { name: 'trainer' },
  );
  const torch = torchOf(config, id);
  if ((process.env['JOB_COMPLETION_INDEX'] ?? '0') !== '0') {
    if (torch !== undefined) return await followFirstPod(torch, stopping.signal);
    throw invalidArgument(
      'PLUMB_TRAINING_NODES',
      'is above 1, and this program trains a job in one pod; set it to 1, or set PLUMB_TRAINING_COMMAND, which trains across pods',
      { reason: 'CONFIGURATION_INVALID' },
    );
  }
  const store = await openJobStore(bus);
  const claimed = await claimJob(bus, store, id, config.trainingBackend);
  if (claimed === undefined) {
    log.info({ jobId: id }, 'the job has ended, or runs elsewhere; nothing to do');
    return exitCodes.done;
  }
  sequence.add(
    'claim',
    () => {
      claimed.close();
    },
    1000,
  );
  const artifacts = await openArtifactStore(config.artifacts, config);
  const cache = await pipelineCache(config.pipelineCache);
  sequence.add('pipelines', () => cache.remove(), 5000);
  const events = progressEvents(bus, log);
  sequence.add('progress events', () => events.close(), 5000);
  const live = await livePoints(bus, claimed.store, id, log);
  sequence.add('newest points', () => live.close(), 5000);
  const resume = await store.resumePoint(id);
  const points = (await store.points(id)).filter(({ step }) => step <= (resume?.step ?? 0));
  const feed = new JobFeed({ ...claimed.job, step: resume?.step ?? 0 }, points);
  const parent = withWork(
    { jobId: id, runId: feed.job.spec?.runId, iteration: feed.job.spec?.iteration },
    contextFromCarrier({ traceparent: process.env['TRACEPARENT'] ?? '' }),
  );
  const attributes = { 'plumb.job.id': id, 'plumb.run.id': feed.job.spec?.runId ?? '' };
  const ports = trainingPorts(artifacts, {
    openEngine: (intraOpThreads) => openEngine({ form: config.engineForm, intraOpThreads }),
    threads: config.intraOpThreads,
    maxDataSetBytes: config.maxDataSetBytes,
    pipelines: { cache: cache.path, device: config.device },
    scoreClips:
      config.rewardAddress === undefined
        ? undefined
        : rewardScores(connect(RewardService, config.rewardAddress), artifacts, {
            deadlineMs: config.probeDeadlineSeconds * 1000,
          }),
  });
  await withSpan(tracer('plumb-trainer'), 'train in a pod', { parent, attributes }, () =>
    runJob(feed, AbortSignal.any([stopping.signal, claimed.signal]), {
      store: live.store,
      ports:
        torch === undefined
          ? ports
          : {
              ...ports,
              openTrainee: async (plan) =>
                torchTrainee(id, plan, await ports.openTrainee(plan), { ...torch, artifacts }),
            },
      checkpointEverySteps: config.checkpointEverySteps,
      logger: log,
      onPoint: (point, runId) => {
        recordStep(point, runId);
        events.offer(point);
        live.offer(point);
      },
      whenStuck: 'leave',
    }),
  );
  if (feed.job.state === JobState.FAILED) return exitCodes.failed;
  return feed.job.state === JobState.RUNNING ? exitCodes.tryAgain : exitCodes.done;
}

/** The program that trains in place of this process's engine; undefined where there is none. */
function torchOf(
  config: z.output<typeof trainingJobSettings>,
  id: string,
): Omit<TorchTraining, 'artifacts'> | undefined {
  const { trainingCommand, trainingFolder, trainingModel } = config;
  if (trainingCommand === undefined) return undefined;
  if (trainingFolder === undefined) {
    throw invalidArgument(
      'PLUMB_TRAINING_FOLDER',
      'is missing; PLUMB_TRAINING_COMMAND reads the job from a folder that its pods share',
      { reason: 'CONFIGURATION_INVALID' },
    );
  }
  return {
    command: trainingCommand.trim().split(/\s+/),
    folder: path.resolve(trainingFolder, id),
    model: trainingModel,
  };
}

/** What an error that ends the process means for the job. */
function codeOf(error: PlumbError): number {
  if (error.reason === 'JOB_CONFLICT') return exitCodes.done;
  if (error.reason === 'JOB_NOT_FOUND') return exitCodes.failed;
  return error.code === 'INVALID_ARGUMENT' || error.reason === 'CONFIGURATION_INVALID'
    ? exitCodes.configuration
    : exitCodes.tryAgain;
}

let code: number;
try {
  code = await run(process.argv[2]);
} catch (thrown) {
  const error = PlumbError.from(thrown);
  code = codeOf(error);
  log.error({ error: thrown, exitCode: code }, describeError(thrown));
}
await sequence.run(({ name, error }) => {
  if (error !== undefined) log.warn({ step: name, error }, 'a part did not stop well');
});
process.exit(code);
