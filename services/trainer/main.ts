import { connectBus } from '@plumb/kit/bus';
import { loadConfig, splitAddress } from '@plumb/kit/config';
import { runService } from '@plumb/kit/lifecycle';
import { addService, createServer } from '@plumb/kit/rpc';
import { startTelemetry } from '@plumb/kit/telemetry';
import { openFolderStore } from '@plumb/media';
import { TrainerService } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { openEngine } from '@plumb/tensor-graph/engine';
import { openJobStore } from './adapters/job-store.ts';
import { trainingPorts } from './adapters/training-artifacts.ts';
import { trainerSettings } from './config.ts';
import { Jobs } from './domain/jobs.ts';
import { stepMetrics } from './metrics.ts';
import { trainerService } from './service.ts';

await runService({
  name: 'trainer',
  start: async (ctx) => {
    const config = loadConfig(trainerSettings, ctx.env);
    const metricsAddress = splitAddress(config.metricsListen);
    const telemetry = await startTelemetry({
      service: 'plumb-trainer',
      version: '0.1.0',
      metricsHost: metricsAddress.host,
      metricsPort: metricsAddress.port,
      logLevel: config.logLevel,
      ...(config.spanDirectory === undefined ? {} : { spanDirectory: config.spanDirectory }),
    });
    ctx.onStop('telemetry', () => telemetry.shutdown());
    const bus = await connectBus({ url: config.natsUrl, name: 'trainer', signal: ctx.signal });
    ctx.onStop('bus', () => bus.close());
    await bus.ensureStreams();

    const artifacts = await openFolderStore(config.artifacts);
    const jobs = new Jobs({
      store: await openJobStore(bus),
      ports: trainingPorts(artifacts, {
        openEngine: (intraOpThreads) => openEngine({ form: config.engineForm, intraOpThreads }),
        threads: config.intraOpThreads,
        maxDataSetBytes: config.maxDataSetBytes,
      }),
      checkpointEverySteps: config.checkpointEverySteps,
      logger: ctx.logger,
      onPoint: stepMetrics(),
      onFatal: (error) => {
        ctx.fail(error);
      },
    });
    await jobs.start();
    // The running job takes a checkpoint first, which lets the next process begin there.
    ctx.onStop('jobs', () => jobs.stop(), { deadlineMs: 15_000 });

    const server = createServer({
      ...splitAddress(config.listen),
      insecure: config.insecure,
      signal: ctx.signal,
    });
    addService(server, TrainerService, trainerService(jobs));
    const { address } = await server.listen();
    ctx.onStop('server', () => server.stop());
    return { address, metrics: telemetry.metricsAddress };
  },
});
