/** The judge service: asks vision-language models about clips. Wiring only. */

import { connectBus } from '@plumb/kit/bus';
import { loadConfig, splitAddress } from '@plumb/kit/config';
import { runService } from '@plumb/kit/lifecycle';
import { addService, createServer } from '@plumb/kit/rpc';
import { startTelemetry } from '@plumb/kit/telemetry';
import { openFolderStore } from '@plumb/media';
import { JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { endpointAccess } from './adapters/endpoint-access.ts';
import { judgingTelemetry } from './adapters/judging-telemetry.ts';
import { readJudgesFile } from './adapters/judges-file.ts';
import { openKeyValueVerdicts } from './adapters/key-value-verdicts.ts';
import { judgeSettings } from './config.ts';
import { createJudging } from './domain/judging.ts';
import { judgeService } from './service.ts';

await runService({
  name: 'judge',
  start: async (context) => {
    const config = loadConfig(judgeSettings, context.env);
    const { endpoints, judges } = await readJudgesFile(config.judgesFile, context.env);
    const telemetry = await startTelemetry({
      service: 'plumb-judge',
      version: '0.1.0',
      spanDirectory: config.spanDirectory,
      metricsHost: splitAddress(config.metricsListen).host,
      metricsPort: splitAddress(config.metricsListen).port,
      logLevel: config.logLevel,
    });
    context.onStop('telemetry', () => telemetry.shutdown());
    const bus = await connectBus({ url: config.natsUrl, name: 'judge', signal: context.signal });
    context.onStop('bus', () => bus.close());

    const judging = createJudging(
      endpointAccess(endpoints),
      await openKeyValueVerdicts(bus, context.signal),
      judgingTelemetry(),
    );
    const server = createServer({
      ...splitAddress(config.listen),
      insecure: config.insecure,
      signal: context.signal,
    });
    addService(server, JudgeService, judgeService(judges, judging, await openFolderStore(config.artifacts)));
    const { address } = await server.listen();
    context.onStop('server', () => server.stop());
    return { address, metrics: telemetry.metricsAddress };
  },
});
