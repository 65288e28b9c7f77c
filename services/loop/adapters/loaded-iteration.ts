import type { PlumbError } from '@plumb/kit/errors';
import { fromStatus, internal } from '@plumb/kit/errors';
import type { RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { JobState } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { findDataSet, findDecision, findEvaluation, findLatestJob, findModel } from './ledger/iterations.ts';
import type { DataSetRow, DecisionRow, EvaluationRow, JobRow } from './ledger/iterations.ts';
import { findIteration } from './ledger/runs.ts';
import type { IterationRow, RunRow } from './ledger/runs.ts';
import { countSamples } from './ledger/samples.ts';
import type { Ledger } from './ledger/tables.ts';
import { jobFromText, modelFromText } from './messages.ts';
import { candidateVersionOf } from '../domain/candidate.ts';
import type { Group } from '../domain/groups.ts';
import type { GroupCounts, IterationSnapshot, JobSnapshot } from '../domain/plan.ts';
import { groupSize } from '../domain/sample-plan.ts';

/** An iteration as the ledger holds it: what the planner looks at, and the rows behind it. */
export interface LoadedIteration {
  readonly run: RunRow;
  readonly spec: RunSpec;
  readonly row: IterationRow;
  /** The model that the iteration started from. */
  readonly model: ModelVersion;
  /** The model that it has made. */
  readonly candidate: ModelVersion | undefined;
  readonly dataSet: DataSetRow | undefined;
  readonly job: { readonly row: JobRow; readonly job: Job } | undefined;
  readonly evaluation: EvaluationRow | undefined;
  readonly decision: DecisionRow | undefined;
  readonly groups: Readonly<Record<Group, GroupCounts>>;
}

/** Reads an iteration. */
export async function loadIteration(
  ledger: Ledger,
  run: RunRow,
  spec: RunSpec,
  iteration: number = run.iteration,
): Promise<LoadedIteration> {
  const key = { runId: run.id, iteration };
  const row = await findIteration(ledger, run.id, iteration);
  if (row === undefined)
    throw internal(new Error(`iteration ${iteration} of ${run.id} is not in the ledger`));
  const model = modelFromText(row.model);
  const jobRow = await findLatestJob(ledger, key);
  const job = jobRow === undefined ? undefined : { row: jobRow, job: jobFromText(jobRow.job) };
  return {
    run,
    spec,
    row,
    model,
    candidate: await findCandidate(ledger, model, job),
    dataSet: await findDataSet(ledger, key),
    job,
    evaluation: await findEvaluation(ledger, key),
    decision: await findDecision(ledger, key),
    groups: await groupCounts(ledger, run.id, iteration, spec),
  };
}

async function findCandidate(
  ledger: Ledger,
  model: ModelVersion,
  job: LoadedIteration['job'],
): Promise<ModelVersion | undefined> {
  if (job?.row.state !== 'succeeded') return undefined;
  const version = candidateVersionOf(model, job.job);
  const record = version === undefined ? undefined : await findModel(ledger, version);
  return record === undefined ? undefined : modelFromText(record);
}

async function groupCounts(
  ledger: Ledger,
  runId: string,
  iteration: number,
  spec: RunSpec,
): Promise<Record<Group, GroupCounts>> {
  const empty = (group: Group): GroupCounts => ({
    expected: groupSize(spec, group),
    rows: 0,
    toGenerate: 0,
    generating: 0,
    toScore: 0,
    scoring: 0,
    scored: 0,
    failed: 0,
  });
  const counts = { train: empty('train'), before: empty('before'), after: empty('after') };
  for (const found of await countSamples(ledger, runId, iteration)) {
    const { rows, toGenerate, generating, toScore, scoring, scored, failed } = found;
    const { expected } = counts[found.group];
    counts[found.group] = { expected, rows, toGenerate, generating, toScore, scoring, scored, failed };
  }
  return counts;
}

/** What the planner is shown. */
export function snapshotOf(
  loaded: LoadedIteration,
  idleSeconds: IterationSnapshot['idleSeconds'],
): IterationSnapshot {
  const { decision } = loaded;
  return {
    state: loaded.run.state,
    iteration: loaded.row.iteration,
    groups: loaded.groups,
    dataSetFrozen: loaded.dataSet !== undefined,
    job: jobSnapshot(loaded.job),
    candidateRegistered: loaded.candidate !== undefined,
    evaluated: loaded.evaluation !== undefined,
    decision: decision === undefined ? 'none' : decision.applied_at === null ? 'decided' : 'applied',
    idleSeconds,
  };
}

function jobSnapshot(loaded: LoadedIteration['job']): JobSnapshot {
  if (loaded === undefined || loaded.row.state === 'abandoned') return { state: 'absent' };
  const { state } = loaded.row;
  return state === 'failed' ? { state, error: jobError(loaded.job) } : { state };
}

/** Why a job has failed. */
export function jobError(job: Job): PlumbError {
  if (job.error !== undefined) return fromStatus(job.error);
  const cancelled = job.state === JobState.CANCELLED;
  return fromStatus({
    $typeName: 'google.rpc.Status',
    code: cancelled ? 1 : 2,
    message: cancelled ? 'somebody cancelled it' : 'the trainer gave no reason',
    details: [],
  });
}
