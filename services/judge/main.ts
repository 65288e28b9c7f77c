/** The judge service: asks vision-language models about clips. Wiring only. */

import { runService, startFoundation } from '@plumb/kit/lifecycle';
import { addService } from '@plumb/kit/rpc';
import { openArtifactStore } from '@plumb/media';
import { JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { openEndpoints } from './adapters/endpoint-access.ts';
import { judgeHealth } from './adapters/judge-health.ts';
import { judgingTelemetry } from './adapters/judging-telemetry.ts';
import { readJudgesFile } from './adapters/judges-file.ts';
import { openKeyValueVerdicts } from './adapters/key-value-verdicts.ts';
import { judgeSettings } from './config.ts';
import { createJudging } from './domain/judging.ts';
import { createSpending, openKeyValueAccounts } from '@plumb/endpoint';
import { judgeService } from './service.ts';

await runService({
  name: 'judge',
  start: async (context) => {
    const { config, bus, server, serve } = await startFoundation(context, judgeSettings, { name: 'judge' });
    const configured = await readJudgesFile(config.judgesFile, context.env);
    const telemetry = judgingTelemetry(configured.currency);
    const endpoints = openEndpoints(configured.endpoints, telemetry.endpointChanged, config.traceContent);
    for (const { endpoint } of endpoints.all) telemetry.endpointOpened(endpoint.name);
    const spending = createSpending(
      await openKeyValueAccounts(bus, 'plumb_judge_accounts'),
      {
        name: 'judging',
        fix: 'raise it with `plumb judge budget`',
        reason: 'JUDGE_BUDGET_EXHAUSTED',
      },
      configured.budget,
      telemetry.accountFailed,
    );
    context.onStop('accounts', () => spending.flush());
    const health = judgeHealth(
      server,
      [...configured.judges, ...configured.panels].map(({ name }) => name),
    );
    const judging = createJudging({
      accessOf: (judge) => endpoints.of(judge),
      store: await openKeyValueVerdicts(bus, context.signal),
      spending,
      events: {
        ...telemetry,
        misconfigured: ({ name }, error) => health.misconfigured(name, error),
        verdict: (judge, source) => {
          telemetry.verdict?.(judge, source);
          if (source === 'endpoint') health.answered(judge.name);
        },
      },
    });
    const artifacts = await openArtifactStore(config.artifacts);
    addService(
      server,
      JudgeService,
      judgeService({ ...configured, endpoints: endpoints.all, judging, spending, artifacts, health }),
    );
    return await serve();
  },
});
