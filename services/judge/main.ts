/** The judge service: asks vision-language models about clips. Wiring only. */

import { runService, startFoundation } from '@plumb/kit/lifecycle';
import { addService } from '@plumb/kit/rpc';
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
    const { config, bus, server, serve } = await startFoundation(context, judgeSettings, { name: 'judge' });
    const { endpoints, judges } = await readJudgesFile(config.judgesFile, context.env);
    const judging = createJudging(
      endpointAccess(endpoints),
      await openKeyValueVerdicts(bus, context.signal),
      judgingTelemetry(),
    );
    addService(server, JudgeService, judgeService(judges, judging, await openFolderStore(config.artifacts)));
    return await serve();
  },
});
