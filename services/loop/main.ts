import { connectBus } from '@plumb/kit/bus';
import { loadConfig, splitAddress } from '@plumb/kit/config';
import { runService } from '@plumb/kit/lifecycle';
import { addService, createServer } from '@plumb/kit/rpc';
import { startTelemetry } from '@plumb/kit/telemetry';
import { openFolderStore } from '@plumb/media';
import { LabelService } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import { LoopService } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { ModelRegistryService } from '@plumb/proto/plumb/loop/v1/model_registry_pb.js';
import { openDatabase } from './adapters/ledger/database.ts';
import { withLedgerErrors } from './adapters/ledger/handler-errors.ts';
import { openModelRegistry } from './adapters/model-registry.ts';
import { noRewardVersions, rewardVersionsOf } from './adapters/reward-versions.ts';
import { consumeSampleEvents } from './adapters/sample-events.ts';
import { connectTrainer } from './adapters/trainer.ts';
import { loopSettings } from './config.ts';
import { labelService } from './label-service.ts';
import { loopService } from './loop-service.ts';
import { modelRegistryService } from './model-registry-service.ts';
import { RunChanges } from './reconciler/changes.ts';
import { Reconciler } from './reconciler/reconciler.ts';
import packageJson from './package.json' with { type: 'json' };

await runService({
  name: 'loop',
  start: async (ctx) => {
    const config = loadConfig(loopSettings, ctx.env);
    const metrics = splitAddress(config.metricsListen);
    const telemetry = await startTelemetry({
      service: 'plumb-loop',
      version: packageJson.version,
      spanDirectory: config.spanDirectory,
      metricsHost: metrics.host,
      metricsPort: metrics.port,
      logLevel: config.logLevel,
    });
    ctx.onStop('telemetry', () => telemetry.shutdown());

    const database = await openDatabase(config.databaseUrl);
    ctx.onStop('ledger', () => database.destroy());
    const artifacts = await openFolderStore(config.artifacts);
    const bus = await connectBus({ url: config.natsUrl, name: 'loop', signal: ctx.signal });
    ctx.onStop('bus', () => bus.close());
    await bus.ensureStreams();

    const trainer = connectTrainer(config.trainerAddress);
    ctx.onStop('trainer', () => trainer.close());
    const rewards =
      config.rewardAddress === undefined
        ? { versions: noRewardVersions, close: () => undefined }
        : rewardVersionsOf(config.rewardAddress);
    ctx.onStop('reward', () => rewards.close());

    const changes = new RunChanges();
    const registry = await openModelRegistry(bus);
    const loop = {
      database,
      bus,
      artifacts,
      registry,
      trainer,
      rewardVersions: rewards.versions,
      changes,
      maxOutstanding: config.maxOutstandingTasks,
      republishAfterSeconds: config.republishAfterSeconds,
    };
    const reconciler = new Reconciler(loop);
    ctx.onStop('reconciler', () => reconciler.stop(), { deadlineMs: 10_000 });

    const consumptions = await consumeSampleEvents(bus, database, {
      signal: ctx.signal,
      changed: (runIds) => {
        for (const runId of runIds) {
          changes.notify(runId);
          reconciler.wake(runId);
        }
      },
    });
    ctx.onStop('events', async () => {
      await Promise.all(consumptions.map(async (consumption) => await consumption.stop()));
    });

    const server = createServer({
      ...splitAddress(config.listen),
      insecure: config.insecure,
      signal: ctx.signal,
    });
    addService(server, LoopService, withLedgerErrors(loopService(loop, reconciler)));
    addService(server, ModelRegistryService, modelRegistryService(registry, artifacts));
    addService(server, LabelService, withLedgerErrors(labelService(database)));
    const { address } = await server.listen();
    ctx.onStop('server', () => server.stop());

    await reconciler.start();
    return { address, metrics: telemetry.metricsAddress };
  },
});
