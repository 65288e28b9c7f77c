import { fileURLToPath } from 'node:url';
import { observeQueues, streamNames, subjects } from '@plumb/kit/bus';
import type { ObservedQueue } from '@plumb/kit/bus';
import { splitAddress } from '@plumb/kit/config';
import { runService, startFoundation } from '@plumb/kit/lifecycle';
import { addService } from '@plumb/kit/rpc';
import { artifactPath, openLinks, startWebServer, webService } from '@plumb/kit/web';
import { artifactUri, openArtifactStore } from '@plumb/media';
import { LabelService } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import { LoopService } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { ModelRegistryService } from '@plumb/proto/plumb/loop/v1/model_registry_pb.js';
import { StudyService } from '@plumb/proto/plumb/loop/v1/study_pb.js';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { TrainerService } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { heldOutJudgesOf, noHeldOutJudges } from './adapters/held-out-judges.ts';
import { judgeBudgetsOf, noJudgeBudgets } from './adapters/judge-budgets.ts';
import { judgeQuestionsOf, noJudgeQuestions } from './adapters/judge-questions.ts';
import { judgeSignsOf, noJudgeSigns } from './adapters/judge-signs.ts';
import { openDatabase } from './adapters/ledger/database.ts';
import { withLedgerErrors } from './adapters/ledger/handler-errors.ts';
import { openModelRegistry } from './adapters/model-registry.ts';
import { observePausedRuns } from './adapters/paused-runs.ts';
import { queueDepthsOf } from './adapters/queue-depths.ts';
import { noRewardVersions, rewardVersionsOf } from './adapters/reward-versions.ts';
import { studyResultsIn } from './adapters/study-results.ts';
import { trainerOf } from './adapters/trainer.ts';
import { loopSettings } from './config.ts';
import { parseBudgets } from './domain/stall.ts';
import { labelService } from './label-service.ts';
import { leaderWork } from './leader-work.ts';
import { electionOf, leader } from './leadership.ts';
import { openFeedbackRuns } from './open-feedback-runs.ts';
import { loopService } from './loop-service.ts';
import { observeStalls } from './metrics.ts';
import { modelRegistryService } from './model-registry-service.ts';
import { Arrivals } from './reconciler/arrivals.ts';
import { RunChanges } from './reconciler/changes.ts';
import { Reconciler } from './reconciler/reconciler.ts';
import { StallBoard } from './reconciler/stall-board.ts';
import { studyService } from './study-service.ts';

/** Everything that waits for somebody between the services. */
const observedQueues: readonly ObservedQueue[] = [
  { stream: streamNames.tasks, durable: 'generator', subject: subjects.taskGenerate, work: true },
  { stream: streamNames.tasks, durable: 'reward', subject: subjects.taskScore, work: true },
  { stream: streamNames.events, durable: 'loop-generated', subject: subjects.sampleGenerated, work: false },
  { stream: streamNames.events, durable: 'loop-scored', subject: subjects.sampleScored, work: false },
  { stream: streamNames.events, durable: 'loop-failed', subject: subjects.sampleFailed, work: false },
];

await runService({
  name: 'loop',
  start: async (ctx) => {
    const { config, bus, server, access, connect, serve } = await startFoundation(ctx, loopSettings, {
      name: 'loop',
    });

    const database = await openDatabase(config.databaseUrl);
    ctx.onStop('ledger', () => database.destroy());
    const artifacts = await openArtifactStore(config.artifacts);

    // Calls wait for the trainer to be reachable, within their deadlines.
    const trainer = trainerOf(connect(TrainerService, config.trainerAddress, { waitForReady: true }));
    const reward =
      config.rewardAddress === undefined
        ? undefined
        : connect(RewardService, config.rewardAddress, { defaultDeadlineMs: 5000 });
    const rewardVersions = reward === undefined ? noRewardVersions : rewardVersionsOf(reward);

    const judge =
      config.judgeAddress === undefined
        ? undefined
        : connect(JudgeService, config.judgeAddress, { defaultDeadlineMs: 5000 });
    const judgeBudgets = judge === undefined ? noJudgeBudgets : judgeBudgetsOf(judge);
    const links = config.webKeyFile === undefined ? undefined : await openLinks(config.webKeyFile);
    ctx.onStop('links', () => links?.close());

    const registry = await openModelRegistry(bus);
    const loop = {
      database,
      bus,
      artifacts,
      registry,
      trainer,
      rewardVersions,
      judgeBudgets,
      heldOutJudges:
        judge === undefined || reward === undefined ? noHeldOutJudges : heldOutJudgesOf(reward, judge),
      judgeQuestions:
        judge === undefined || reward === undefined ? noJudgeQuestions : judgeQuestionsOf(reward, judge),
      links,
      signedUrl: ({ sha256, mediaType }: { readonly sha256: string; readonly mediaType: string }) => {
        const path = artifactPath(sha256, mediaType);
        return links === undefined || path === undefined ? '' : links.signPath(path);
      },
      spanDirectory: config.spanDirectory,
      queueDepths: queueDepthsOf(bus),
      changes: new RunChanges(),
      arrivals: new Arrivals(),
      stallBudgets: parseBudgets(config.stallBudgets, config.stallAfterSeconds),
      stalls: new StallBoard(),
      judgeSigns: judge === undefined ? noJudgeSigns : judgeSignsOf(judge),
      maxOutstanding: config.maxOutstandingTasks,
      republishAfterSeconds: config.republishAfterSeconds,
    };
    const reconciler = new Reconciler(loop);
    const handlers = loopService(loop, reconciler);
    const feedbackRuns = await openFeedbackRuns(ctx, config, loop, handlers);
    const lead = leader(ctx, await electionOf(config), leaderWork(loop, reconciler, feedbackRuns));

    observeQueues(bus, observedQueues);
    observeStalls(loop.stalls);
    observePausedRuns(database, () => reconciler.halted);

    const runs = withLedgerErrors(handlers);
    const models = modelRegistryService(registry, artifacts);
    const labels = withLedgerErrors(labelService(loop));
    const studies = studyService(studyResultsIn(config.studies));
    addService(server, LoopService, runs);
    addService(server, ModelRegistryService, models);
    addService(server, LabelService, labels);
    addService(server, StudyService, studies);
    const addresses = await serve();
    const web =
      links === undefined
        ? undefined
        : await startWebServer({
            ...splitAddress(config.webListen),
            insecurePlaintext: config.insecurePlaintext,
            links,
            access,
            services: [
              webService(LoopService, runs),
              webService(ModelRegistryService, models),
              webService(LabelService, labels),
              webService(StudyService, studies),
            ],
            folder: fileURLToPath(new URL('../../web/dist', import.meta.url)),
            artifact: async (sha256) => await artifacts.get(artifactUri(sha256), sha256),
          });
    ctx.onStop('dashboard', () => web?.stop());

    await lead();
    return { ...addresses, ...(web === undefined ? {} : { web: web.address }) };
  },
});
