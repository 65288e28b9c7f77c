import { availableParallelism } from 'node:os';
import { runService, startFoundation } from '@plumb/kit/lifecycle';
import { addService } from '@plumb/kit/rpc';
import { openArtifactStore } from '@plumb/media';
import { GeneratorService } from '@plumb/proto/plumb/generator/v1/generator_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { pipelineCache } from '@plumb/pipelines';
import { openEngine } from '@plumb/tensor-graph/engine';
import { clipArtifacts } from './adapters/clip-artifacts.ts';
import { followModelRegistry } from './adapters/model-registry.ts';
import { modelLoader } from './adapters/load-model.ts';
import { remoteEndpoints } from './adapters/remote-endpoints.ts';
import { SamplerPool } from './adapters/sampler-pool.ts';
import { generatorSettings } from './config.ts';
import { createGeneration } from './domain/generation.ts';
import { weightsOf } from './domain/models.ts';
import { endpointMetrics, generationMetrics } from './metrics.ts';
import { generatorService } from './service.ts';
import { consumeTasks } from './task-consumer.ts';

await runService({
  name: 'generator',
  start: async (ctx) => {
    const { config, bus, server, serve } = await startFoundation(ctx, generatorSettings, {
      name: 'generator',
    });

    const artifacts = await openArtifactStore(config.artifacts, config);
    const endpoints = await remoteEndpoints(
      config.remoteEndpoints,
      bus,
      process.env,
      ctx.logger,
      endpointMetrics,
    );
    const cache = await pipelineCache(config.pipelineCache);
    ctx.onStop('pipelines', () => cache.remove());
    const samplers = new SamplerPool({
      loadModel: modelLoader(
        artifacts,
        cache.path,
        {
          batch: config.batchSize,
          guidancePasses: config.guidancePasses,
          devices: {
            textEncoder: config.textDevice,
            denoiser: config.denoiserDevice,
            decoder: config.decoderDevice,
          },
          ...(config.memoryBudgetMib === undefined
            ? {}
            : { memoryBudgetBytes: config.memoryBudgetMib * 2 ** 20 }),
          ...(config.tile === undefined
            ? {}
            : { tile: { height: config.tile, width: config.tile, overlap: 0.25 } }),
        },
        endpoints,
      ),
      openEngine: () =>
        openEngine({
          form: config.engineForm,
          ...(config.intraOpThreads === undefined ? {} : { intraOpThreads: config.intraOpThreads }),
        }),
      maxModels: config.maxModels,
      logger: ctx.logger,
    });
    ctx.onStop('engines', () => samplers.close());
    const generation = createGeneration({
      samplers,
      clips: clipArtifacts(artifacts, {
        concurrency: Math.max(2, availableParallelism()),
        previewScale: config.previewScale,
        previewFormat: config.previewFormat,
      }),
      metrics: generationMetrics(),
      batchSize: config.batchSize,
      batchesUnderWay: config.batchesUnderWay,
      batchWaitMs: config.batchWaitMs,
      maxWaiting: 64 * config.batchSize,
    });
    ctx.onStop('batches', () => generation.close(), { deadlineMs: 15_000 });

    const preload = async (model: ModelVersion): Promise<void> => {
      try {
        await samplers.preload(weightsOf(model, 'model'));
      } catch (error) {
        // The first clip that wants the model tries again and gets the error.
        ctx.logger.error({ model: model.version, error }, 'the promoted model cannot be loaded');
      }
    };
    const registry = await followModelRegistry(bus, {
      logger: ctx.logger,
      onPromoted: (model) => void preload(model),
    });
    ctx.onStop('registry', () => registry.stop());

    addService(server, GeneratorService, generatorService({ generation, catalogue: registry }));
    const addresses = await serve();
    const tasks = await consumeTasks(bus, generation, {
      // One batch on the engine, one ready, one being stored, and one more to fill gaps.
      maxInFlight: config.batchSize * (config.batchesUnderWay + 2),
      ackWaitMs: config.ackWaitMs,
      signal: ctx.signal,
    });
    // Sampling anew costs less than making somebody wait for the end of every batch.
    ctx.onStop('tasks', () => tasks.stop({ deadlineMs: 3000 }), { deadlineMs: 8000 });
    return addresses;
  },
});
