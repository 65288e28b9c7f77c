import { create } from '@bufbuild/protobuf';
import { timestampFromDate } from '@bufbuild/protobuf/wkt';
import {
  failedPrecondition,
  invalidArgument,
  invalidArguments,
  notFound,
  PlumbError,
  unavailable,
} from '@plumb/kit/errors';
import type { Implementation } from '@plumb/kit/rpc';
import { LabelService } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import { LoopService, RunState, StageStallSchema, Verdict } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type {
  Budgets,
  Run,
  RunSpec,
  SampleFilter as SampleFilterMessage,
} from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { ModelRegistryService } from '@plumb/proto/plumb/loop/v1/model_registry_pb.js';
import { StudyService } from '@plumb/proto/plumb/loop/v1/study_pb.js';
import { ModelState, ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { z } from 'zod';
import { abandonFailedJobs } from './adapters/ledger/iterations.ts';
import { findRun, findRunByKey, insertRun, listRuns, moveRun, setBudgets } from './adapters/ledger/runs.ts';
import type { RunRow } from './adapters/ledger/runs.ts';
import { countFiltered, listSamples, reopenFailed, scoresOf } from './adapters/ledger/samples.ts';
import type { SampleFilter } from './adapters/ledger/samples.ts';
import { budgetsToText, modelToText, specFromText, specToText } from './adapters/messages.ts';
import { pageOf, pageSizeOf, readPageToken, timePosition } from './adapters/pages.ts';
import { reportView } from './adapters/report-view.ts';
import { runView } from './adapters/run-view.ts';
import { sampleView } from './adapters/sample-view.ts';
import { budgetViolations } from './domain/budget.ts';
import { categoryIdOf } from './domain/categories.ts';
import { groups } from './domain/groups.ts';
import { runIdOf } from './domain/identity.ts';
import { firstDifference, specViolations, withDefaults } from './domain/run-spec.ts';
import { deadLetterMethods } from './dead-letters.ts';
import { exportRun } from './export-run.ts';
import { getSample, traceSpans } from './get-sample.ts';
import { overrideDecision } from './override-decision.ts';
import { cancelTraining } from './reconciler/cancel-training.ts';
import { rewardsOf } from './domain/sample-plan.ts';
import type { LoopContext } from './reconciler/context.ts';
import { currentTraceId } from './reconciler/iteration-trace.ts';
import type { Reconciler } from './reconciler/reconciler.ts';

/** Shortest time between two states of a watched run, in milliseconds. */
const watchIntervalMs = 400;
/** Longest idempotency key, in characters. */
const maxKeyLength = 200;

const verdicts: Readonly<Record<Verdict, SampleFilter['verdict']>> = {
  [Verdict.UNSPECIFIED]: undefined,
  [Verdict.ACCEPTED]: 'accepted',
  [Verdict.REJECTED]: 'rejected',
  [Verdict.ERROR]: 'error',
  [Verdict.PENDING]: 'pending',
};

const samplePosition = z.object({
  iteration: z.int(),
  group: z.string(),
  position: z.int(),
  id: z.string(),
});

/** All calls of this service's address. */
const callableMethods = [LoopService, LabelService, ModelRegistryService, StudyService].flatMap((service) =>
  service.methods.map(({ name }) => `${service.typeName}/${name}`),
);

/** LoopService: what callers say, in terms of the ledger and the reconciler. */
export function loopService(loop: LoopContext, reconciler: Reconciler) {
  const { database } = loop;

  async function requireRun(id: string): Promise<RunRow> {
    const row = await findRun(database, id);
    if (row === undefined) {
      throw notFound('run', id, { reason: 'RUN_NOT_FOUND', fix: 'list the runs to see what there is' });
    }
    return row;
  }

  async function view(row: RunRow): Promise<Run> {
    const run = await runView(loop, row, reconciler.haltedBy(row.id));
    run.stalls = loop.stalls.of(row.id).map(({ stage, cause, since, left }) =>
      create(StageStallSchema, {
        stage,
        kind: cause.kind,
        cause: cause.text,
        sinceTime: timestampFromDate(since),
        left: BigInt(left),
      }),
    );
    return run;
  }

  async function viewOf(id: string): Promise<Run> {
    return await view(await requireRun(id));
  }

  /** Moves a run to a state, unless it is there already. */
  async function move(
    row: RunRow,
    move: {
      readonly from: readonly RunRow['state'][];
      readonly to: 'running' | 'paused' | 'cancelled';
      readonly verb: string;
    },
  ): Promise<void> {
    const moved = await moveRun(database, { id: row.id, from: move.from, to: move.to, now: new Date() });
    if (moved) return;
    const { state } = await requireRun(row.id);
    if (state === move.to) return;
    throw failedPrecondition(
      `run '${row.id}' is ${state}; only a run that is ${move.from.join(' or ')} can be ${move.verb}`,
      {
        reason: 'RUN_CONFLICT',
      },
    );
  }

  return {
    async createRun(request) {
      const { idempotencyKey } = request;
      checkKey(idempotencyKey);
      const spec = withDefaults(request.spec ?? missingSpec());
      const standing = await findRunByKey(database, idempotencyKey);
      if (standing !== undefined) {
        checkSameSpec(standing, spec, idempotencyKey);
        return { run: await view(standing) };
      }
      const violations = specViolations(spec);
      if (violations.length > 0) throw invalidArguments(violations);
      await refuseHeldOutJudges(loop, spec);
      await holdJudgeBudget(loop, runIdOf(idempotencyKey), spec.budgets, 'spec.budgets');
      const base = await registerBase(loop, spec);
      const row = await insertRun(database, {
        id: runIdOf(idempotencyKey),
        idempotencyKey,
        name: spec.name,
        spec: specToText(spec),
        model: modelToText(base),
        traceId: currentTraceId(),
        createdAt: new Date(),
      });
      checkSameSpec(row, spec, idempotencyKey);
      reconciler.drive(row.id);
      return { run: await view(row) };
    },

    async getRun({ id }) {
      return { run: await viewOf(id) };
    },

    async listRuns({ pageSize, pageToken }) {
      const size = pageSizeOf(pageSize);
      const after = readPageToken(timePosition, pageToken);
      const rows = await listRuns(database, {
        limit: size + 1,
        after: after === undefined ? undefined : { createdAt: after.at, id: after.id },
      });
      const page = pageOf(rows, size, (row) => ({ at: row.created_at.toISOString(), id: row.id }));
      const runs: Run[] = [];
      for (const row of page.rows) runs.push(await view(row));
      return { runs, nextPageToken: page.nextPageToken };
    },

    async *watchRun({ id }, { signal }) {
      await requireRun(id);
      for await (const _ of loop.changes.watch(id, watchIntervalMs, signal)) {
        const run = await viewOf(id);
        yield { run };
        if (hasEnded(run)) return;
      }
      // The stream of a run that goes on ends only with the service: a caller comes back and watches on.
      if (!signal.aborted)
        throw unavailable('the loop service is stopping; watch again', { reason: 'SHUTTING_DOWN' });
    },

    async pauseRun({ id }) {
      const row = await requireRun(id);
      await move(row, { from: ['running'], to: 'paused', verb: 'paused' });
      await reconciler.release(id);
      loop.changes.notify(id);
      return { run: await viewOf(id) };
    },

    async resumeRun({ id, budgets }) {
      const row = await requireRun(id);
      if (budgets !== undefined) {
        // What has been used is in the past: only numbers that are none are refused here.
        const violations = budgetViolations({ ...specFromText(row.spec), budgets });
        if (violations.length > 0) throw invalidArguments(violations);
        await holdJudgeBudget(loop, id, budgets, 'budgets');
        await setBudgets(database, id, budgetsToText(budgets));
      }
      if (reconciler.haltedBy(id) === undefined && row.state === 'running') return { run: await view(row) };
      if (row.state === 'paused' || row.state === 'running') {
        await reconciler.release(id);
        await reopenFailed(database, id, row.iteration);
        await abandonFailedJobs(database, { runId: id, iteration: row.iteration });
      }
      await move(row, { from: ['paused', 'running'], to: 'running', verb: 'resumed' });
      reconciler.drive(id);
      loop.changes.notify(id);
      return { run: await viewOf(id) };
    },

    async cancelRun({ id }) {
      const row = await requireRun(id);
      await move(row, { from: ['running', 'paused'], to: 'cancelled', verb: 'cancelled' });
      await reconciler.release(id);
      await cancelTraining(loop, row);
      loop.changes.notify(id);
      return { run: await viewOf(id) };
    },

    async getReport({ runId }) {
      const row = await requireRun(runId);
      return { report: await reportView(database, row, await loop.judgeBudgets.account(runId)) };
    },

    async overrideDecision(request) {
      checkKey(request.idempotencyKey);
      const answer = await overrideDecision(loop, await requireRun(request.runId), request);
      loop.changes.notify(request.runId);
      return answer;
    },

    async *exportRun({ runId, tables }) {
      yield* exportRun(database, await requireRun(runId), tables);
    },

    async listSamples({ runId, pageSize, pageToken, split, filter, skip, count }) {
      const { spec } = await requireRun(runId);
      const size = pageSizeOf(pageSize);
      if (skip < 0) throw invalidArgument('skip', `${skip} is negative; give 0 or more`);
      const wanted = { ...sampleFilter(filter), ...groupsOf(split), runId };
      const rows = await listSamples(database, {
        ...wanted,
        limit: size + 1,
        skip,
        after: readPageToken(samplePosition, pageToken),
      });
      const page = pageOf(rows, size, ({ iteration, grp, position, id }) => ({
        iteration,
        group: grp,
        position,
        id,
      }));
      const scores = await scoresOf(
        database,
        page.rows.map(({ id }) => id),
      );
      const prompts = new Map(specFromText(spec).prompts.map((prompt) => [prompt.id, prompt]));
      return {
        samples: page.rows.map((row) =>
          sampleView(row, scores.get(row.id) ?? [], prompts.get(row.prompt_id), loop.signedUrl),
        ),
        nextPageToken: page.nextPageToken,
        ...(count ? { totalSize: BigInt(await countFiltered(database, wanted)) } : {}),
      };
    },

    async getSample({ id, evidence }) {
      return await getSample(loop, id, evidence);
    },

    async getTrace({ traceId }) {
      return { spans: await traceSpans(loop.spanDirectory, traceId) };
    },

    async *watchRuns({ pageSize }, { signal }) {
      const size = pageSizeOf(pageSize);
      // Before the list is read, so that nothing changes unheard in between.
      const changes = loop.changes.watchAll(watchIntervalMs, signal);
      const next = changes.next();
      for (const row of (await listRuns(database, { limit: size, after: undefined })).toReversed()) {
        yield { run: await view(row) };
      }
      for (let changed = await next; changed.done !== true; changed = await changes.next()) {
        for (const id of changed.value) {
          const row = await findRun(database, id);
          if (row !== undefined) yield { run: await view(row) };
        }
      }
      if (!signal.aborted)
        throw unavailable('the loop service is stopping; watch again', { reason: 'SHUTTING_DOWN' });
    },

    getCaller(_request, { caller, allows }) {
      return { name: caller ?? '', methods: callableMethods.filter(allows) };
    },

    ...deadLetterMethods(loop.bus),
  } satisfies Implementation<typeof LoopService>;
}

function sampleFilter(filter: SampleFilterMessage | undefined): SampleFilter {
  if (filter === undefined) return {};
  const { iteration, category, modelVersion, prompt, verdict, reward, minimum, maximum, group } = filter;
  const [one, other, ...more] = filter.disagreeingRewards;
  if ((one === undefined) !== (other === undefined) || more.length > 0) {
    throw invalidArgument('filter.disagreeing_rewards', 'give two rewards, or none');
  }
  if (reward === '' && (minimum !== undefined || maximum !== undefined)) {
    throw invalidArgument('filter.reward', 'is missing; name the reward that the bounds are for');
  }
  const known = groups.find((name) => name === group);
  if (group !== '' && known === undefined) {
    throw invalidArgument('filter.group', `'${group}' is unknown; use one of ${groups.join(', ')}`);
  }
  return {
    iteration: iteration === 0 ? undefined : iteration,
    category: categoryIdOf(category),
    modelVersion: modelVersion === '' ? undefined : modelVersion,
    prompt: prompt.trim() === '' ? undefined : prompt.trim(),
    verdict: verdicts[verdict],
    ...(reward === '' ? {} : { score: { reward, minimum, maximum } }),
    ...(one === undefined || other === undefined ? {} : { disagreeing: [one, other] }),
    ...(known === undefined ? {} : { groups: [known] }),
  };
}

function groupsOf(split: Split) {
  if (split === Split.TRAIN) return { groups: ['train'] as const };
  return split === Split.HELDOUT ? { groups: ['before', 'after'] as const } : {};
}

function hasEnded(run: Run): boolean {
  return (
    run.state === RunState.SUCCEEDED || run.state === RunState.FAILED || run.state === RunState.CANCELLED
  );
}

function missingSpec(): never {
  throw invalidArgument('spec', 'is missing; say what the run shall do', { reason: 'MISSING_FIELD' });
}

/** Refuses keys that cannot be kept. */
export function checkKey(key: string): void {
  if (key === '' || key.length > maxKeyLength) {
    throw invalidArgument('idempotency_key', `give a unique string of 1 to ${maxKeyLength} characters`);
  }
}

function checkSameSpec(row: RunRow, spec: RunSpec, key: string): void {
  const difference = firstDifference(specFromText(row.spec), spec);
  if (difference === undefined) return;
  const { field, before, after } = difference;
  throw new PlumbError({
    code: 'ALREADY_EXISTS',
    reason: 'IDEMPOTENCY_KEY_REUSED',
    message: `run '${row.id}' has the idempotency key '${key}' with another spec: ${field} is ${before} there and ${after} here; use another key`,
    metadata: { run: row.id, field },
  });
}

/**
 * Puts the base model into the registry; the first version of a line becomes its promoted one. Gives the base as the spec has
 * it: what the registry says of a version may change, and a run is made from its spec alone.
 */
async function registerBase(loop: LoopContext, spec: RunSpec): Promise<ModelVersion> {
  const { base } = spec;
  if (base?.weights === undefined) throw new TypeError('a valid spec has a base with weights');
  if (!(await loop.artifacts.has(base.weights.sha256))) {
    throw invalidArgument(
      'spec.base.weights',
      `the artifact store has no ${base.weights.sha256}; put the weights there first`,
      { reason: 'ARTIFACT_NOT_FOUND' },
    );
  }
  const registered = await loop.registry.register(
    create(ModelVersionSchema, {
      ...base,
      state: base.state === ModelState.UNSPECIFIED ? ModelState.CANDIDATE : base.state,
    }),
  );
  await loop.registry.promoteFirst(registered.version, [`First version of ${registered.model}`]);
  return base;
}

/** Tells the judge service what the run may spend there, when the run has such a budget. */
/** Before anything is made: a score of such a judge would be refused for every sample. */
async function refuseHeldOutJudges(loop: LoopContext, spec: RunSpec): Promise<void> {
  const [found] = await loop.heldOutJudges(rewardsOf(spec, 'train'));
  if (found === undefined) return;
  throw failedPrecondition(
    `spec.rewards has '${found.reward}', whose judge '${found.judge}' is held out and gives no verdicts for training; name it in evaluation.held_out_reward, and train on another`,
    { reason: 'JUDGE_HELD_OUT', metadata: { reward: found.reward, judge: found.judge } },
  );
}

async function holdJudgeBudget(
  loop: LoopContext,
  runId: string,
  budgets: Budgets | undefined,
  field: string,
): Promise<void> {
  if (budgets === undefined || (budgets.judgeTokens === 0n && budgets.cost === 0)) return;
  if (!loop.judgeBudgets.available) {
    throw invalidArgument(
      `${field}.${budgets.judgeTokens > 0n ? 'judge_tokens' : 'cost'}`,
      'nobody could hold it: this loop service knows no judge service; set PLUMB_JUDGE_ADDRESS for it, or leave the budget out',
    );
  }
  await loop.judgeBudgets.set(runId, budgets);
}
