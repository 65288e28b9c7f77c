import { create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromDate } from '@bufbuild/protobuf/wkt';
import { toStatus } from '@plumb/kit/errors';
import type { PlumbError } from '@plumb/kit/errors';
import { RunSchema, RunState, Stage } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Run, RunSpec, StageProgressSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { groupLabels } from '../domain/groups.ts';
import type { Group } from '../domain/groups.ts';
import { stageOf } from '../domain/plan.ts';
import { groupSize } from '../domain/sample-plan.ts';
import { loadIteration, snapshotOf } from './loaded-iteration.ts';
import type { LoadedIteration } from './loaded-iteration.ts';
import type { JudgeBudgets } from './judge-budgets.ts';
import type { QueueDepths } from './queue-depths.ts';
import { budgetsOf, spendSoFar } from './run-spend.ts';
import { latestProgress } from './ledger/iterations.ts';
import { listIterations } from './ledger/runs.ts';
import type { IterationRow, RunRow } from './ledger/runs.ts';
import { countSamples } from './ledger/samples.ts';
import type { GroupProgress } from './ledger/samples.ts';
import type { Ledger, RunStateName } from './ledger/tables.ts';
import {
  artifactFromText,
  modelFromText,
  progressFromText,
  specFromText,
  statusFromText,
} from './messages.ts';

/** What a view is made from, besides the run's row. */
interface RunSources {
  readonly database: Ledger;
  readonly judgeBudgets: JudgeBudgets;
  readonly queueDepths: QueueDepths;
}

const runStates: Record<RunStateName, RunState> = {
  running: RunState.RUNNING,
  paused: RunState.PAUSED,
  succeeded: RunState.SUCCEEDED,
  failed: RunState.FAILED,
  cancelled: RunState.CANCELLED,
};

const stages: Record<ReturnType<typeof stageOf>, Stage> = {
  sample: Stage.SAMPLE,
  freeze: Stage.FREEZE,
  train: Stage.TRAIN,
  evaluate: Stage.EVALUATE,
  gate: Stage.GATE,
  done: Stage.DONE,
};

const groupStages: Record<Group, Stage> = {
  train: Stage.SAMPLE,
  before: Stage.EVALUATE,
  after: Stage.EVALUATE,
};

/**
 * A run as its callers see it, from the ledger. `halted` is why the run stands still although the ledger could not be told;
 * it then shows as paused.
 */
export async function runView(loop: RunSources, row: RunRow, halted: PlumbError | undefined): Promise<Run> {
  const ledger = loop.database;
  const spec = specFromText(row.spec);
  const loaded = await loadIteration(ledger, row, spec);
  const counts = await countSamples(ledger, row.id);
  const latest = loaded.job === undefined ? undefined : await latestProgress(ledger, loaded.job.row.id);
  const isHalted = halted !== undefined && row.state === 'running';
  const error = isHalted ? toStatus(halted) : row.error === null ? undefined : statusFromText(row.error);
  const snapshot = snapshotOf(loaded, { generate: 0, score: 0 });
  const budgets = budgetsOf(row, spec);
  const spend = await spendSoFar(ledger, row, counts);
  const judge = await loop.judgeBudgets.spend(row.id);
  return create(RunSchema, {
    id: row.id,
    spec,
    state: isHalted ? RunState.PAUSED : runStates[row.state],
    iteration: row.iteration,
    stage: stages[stageOf(snapshot)],
    ...(error === undefined ? {} : { error }),
    createTime: timestampFromDate(row.created_at),
    ...(row.ended_at === null ? {} : { endTime: timestampFromDate(row.ended_at) }),
    progress: await progressOf(ledger, spec, counts, loaded),
    ...(latest === undefined ? {} : { training: progressFromText(latest.progress) }),
    counts: runCounts(counts),
    currentModelVersion: modelFromText(row.current_model).version,
    activeSeconds: row.active_seconds,
    spend: {
      samples: BigInt(spend.samples),
      trainingSteps: BigInt(spend.trainingSteps),
      seconds: spend.seconds,
      judgeTokens: BigInt(judge.tokens),
      cost: judge.cost,
      currency: judge.currency,
    },
    queues: row.state === 'running' ? await loop.queueDepths() : [],
    ...(budgets === undefined ? {} : { budgets }),
    ...(row.manifest === null ? {} : { manifest: artifactFromText(row.manifest) }),
    idempotencyKey: row.idempotency_key,
  });
}

/** The counts of all iterations together. */
export function runCounts(counts: readonly GroupProgress[]) {
  const total = (pick: (group: GroupProgress) => number): bigint =>
    BigInt(counts.reduce((sum, group) => sum + pick(group), 0));
  return {
    planned: total(({ rows }) => rows),
    generated: total(({ clips }) => clips),
    scored: total(({ scored }) => scored),
    errors: total(({ failed }) => failed),
    accepted: total(({ accepted }) => accepted),
    reused: total(({ reused }) => reused),
  };
}

type Progress = MessageInitShape<typeof StageProgressSchema>;

async function progressOf(
  ledger: Ledger,
  spec: RunSpec,
  counts: readonly GroupProgress[],
  current: LoadedIteration,
): Promise<Progress[]> {
  const progress: Progress[] = [];
  for (const iteration of await listIterations(ledger, current.run.id)) {
    const loaded =
      iteration.iteration === current.row.iteration
        ? current
        : await loadIteration(ledger, current.run, spec, iteration.iteration);
    const group = (name: Group) =>
      counts.find((c) => c.iteration === iteration.iteration && c.group === name);
    progress.push(
      ...samplingProgress(spec, iteration, 'train', group('train')),
      ...(await trainingProgress(ledger, spec, loaded)),
      ...samplingProgress(spec, iteration, 'before', group('before')),
      ...samplingProgress(spec, iteration, 'after', group('after')),
      gateProgress(loaded),
    );
  }
  return progress;
}

function samplingProgress(
  spec: RunSpec,
  row: IterationRow,
  group: Group,
  counts: GroupProgress | undefined,
): Progress[] {
  const total = groupSize(spec, group);
  const clips = counts === undefined ? 0 : counts.rows - counts.toGenerate - counts.generating;
  const settled = counts === undefined ? 0 : counts.scored + counts.failed;
  const startedAt = counts?.firstPublishedAt ?? undefined;
  const step = (label: string, done: number, endedAt: Date | null | undefined): Progress => ({
    iteration: row.iteration,
    stage: groupStages[group],
    label: `${groupLabels[group]}, ${label}`,
    done: BigInt(done),
    total: BigInt(total),
    ...(startedAt === undefined ? {} : { startTime: timestampFromDate(startedAt) }),
    ...(done < total || endedAt === null || endedAt === undefined
      ? {}
      : { endTime: timestampFromDate(endedAt) }),
  });
  const accepted = BigInt(counts?.accepted ?? 0);
  return [
    step('generate', clips, counts?.lastGeneratedAt),
    { ...step('score', settled, counts?.lastScoredAt), accepted },
  ];
}

async function trainingProgress(ledger: Ledger, spec: RunSpec, loaded: LoadedIteration): Promise<Progress[]> {
  const { job, dataSet } = loaded;
  const total = spec.optimisation?.steps ?? 0;
  const latest = job === undefined ? undefined : await latestProgress(ledger, job.row.id);
  const done = job?.row.state === 'succeeded' ? total : (latest?.step ?? 0);
  const iteration = loaded.row.iteration;
  const ended = job?.row.ended_at ?? undefined;
  return [
    {
      iteration,
      stage: Stage.FREEZE,
      label: 'data set, freeze',
      done: dataSet === undefined ? 0n : 1n,
      total: 1n,
      ...(dataSet === undefined ? {} : { endTime: timestampFromDate(dataSet.created_at) }),
    },
    {
      iteration,
      stage: Stage.TRAIN,
      label: 'train',
      done: BigInt(done),
      total: BigInt(total),
      ...(job === undefined ? {} : { startTime: timestampFromDate(job.row.created_at) }),
      ...(ended === undefined ? {} : { endTime: timestampFromDate(ended) }),
    },
  ];
}

function gateProgress(loaded: LoadedIteration): Progress {
  const applied = loaded.decision?.applied_at ?? undefined;
  return {
    iteration: loaded.row.iteration,
    stage: Stage.GATE,
    label: 'gate',
    done: applied === undefined ? 0n : 1n,
    total: 1n,
    ...(applied === undefined ? {} : { endTime: timestampFromDate(applied) }),
  };
}
