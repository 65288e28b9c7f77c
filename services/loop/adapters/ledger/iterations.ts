import type { Kysely, Selectable } from 'kysely';
import type { Ledger, Tables } from './tables.ts';

export type DataSetRow = Selectable<Tables['data_sets']>;
export type JobRow = Selectable<Tables['jobs']>;
export type EvaluationRow = Selectable<Tables['evaluations']>;
export type DecisionRow = Selectable<Tables['decisions']>;

/** An iteration of a run. */
export interface IterationKey {
  readonly runId: string;
  /** From 1. */
  readonly iteration: number;
}

/** Records the frozen data set; the first one stands. */
export async function insertDataSet(
  ledger: Ledger,
  row: IterationKey & {
    readonly manifest: string;
    readonly samples: number;
    readonly excluded: number;
    readonly traceId: string;
    readonly now: Date;
  },
): Promise<void> {
  await ledger
    .insertInto('data_sets')
    .values({
      run_id: row.runId,
      iteration: row.iteration,
      manifest: row.manifest,
      samples: row.samples,
      excluded: row.excluded,
      trace_id: row.traceId,
      created_at: row.now,
    })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

export async function findDataSet(ledger: Ledger, key: IterationKey): Promise<DataSetRow | undefined> {
  return await ledger
    .selectFrom('data_sets')
    .selectAll()
    .where('run_id', '=', key.runId)
    .where('iteration', '=', key.iteration)
    .executeTakeFirst();
}

/** Records a training job that the trainer has taken. */
export async function insertJob(
  ledger: Ledger,
  row: IterationKey & {
    readonly id: string;
    readonly attempt: number;
    readonly job: string;
    readonly traceId: string;
    readonly now: Date;
  },
): Promise<void> {
  await ledger
    .insertInto('jobs')
    .values({
      id: row.id,
      run_id: row.runId,
      iteration: row.iteration,
      attempt: row.attempt,
      state: 'running',
      job: row.job,
      trace_id: row.traceId,
      created_at: row.now,
    })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

/** Records how a job stands; a job that has ended stays as it is. */
export async function updateJob(
  ledger: Ledger,
  row: {
    readonly id: string;
    readonly state: JobRow['state'];
    readonly job: string;
    readonly endedAt: Date | null;
  },
): Promise<void> {
  await ledger
    .updateTable('jobs')
    .set({ state: row.state, job: row.job, ended_at: row.endedAt })
    .where('id', '=', row.id)
    .where('state', '=', 'running')
    .execute();
}

/** The job of the iteration's latest attempt. */
export async function findLatestJob(ledger: Ledger, key: IterationKey): Promise<JobRow | undefined> {
  return await ledger
    .selectFrom('jobs')
    .selectAll()
    .where('run_id', '=', key.runId)
    .where('iteration', '=', key.iteration)
    .orderBy('attempt', 'desc')
    .executeTakeFirst();
}

/** Sets failed jobs of an iteration aside, so that the next attempt is made. Returns how many there were. */
export async function abandonFailedJobs(ledger: Ledger, key: IterationKey): Promise<number> {
  const result = await ledger
    .updateTable('jobs')
    .set({ state: 'abandoned' })
    .where('run_id', '=', key.runId)
    .where('iteration', '=', key.iteration)
    .where('state', '=', 'failed')
    .executeTakeFirst();
  return Number(result.numUpdatedRows);
}

/** Sets a job aside that is nowhere to be found any more. */
export async function abandonJob(ledger: Ledger, id: string): Promise<void> {
  await ledger
    .updateTable('jobs')
    .set({ state: 'abandoned' })
    .where('id', '=', id)
    .where('state', '=', 'running')
    .execute();
}

/** Records one point of a training curve. */
export async function insertProgress(
  ledger: Ledger,
  row: { readonly jobId: string; readonly step: number; readonly progress: string },
): Promise<void> {
  await ledger
    .insertInto('training_progress')
    .values({ job_id: row.jobId, step: row.step, progress: row.progress })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

/** The training curve of a job, by step. */
export async function listProgress(ledger: Ledger, jobId: string): Promise<string[]> {
  const rows = await ledger
    .selectFrom('training_progress')
    .select('progress')
    .where('job_id', '=', jobId)
    .orderBy('step')
    .execute();
  return rows.map(({ progress }) => progress);
}

/** The last point of a job's training curve. */
export async function latestProgress(
  ledger: Ledger,
  jobId: string,
): Promise<{ step: number; progress: string } | undefined> {
  return await ledger
    .selectFrom('training_progress')
    .select(['step', 'progress'])
    .where('job_id', '=', jobId)
    .orderBy('step', 'desc')
    .executeTakeFirst();
}

/** Records the model that an iteration has made. */
export async function insertModel(
  ledger: Ledger,
  row: IterationKey & {
    readonly version: string;
    readonly model: string;
    readonly sha256: string;
    readonly record: string;
    readonly traceId: string;
    readonly now: Date;
  },
): Promise<void> {
  await ledger
    .insertInto('models')
    .values({
      version: row.version,
      model: row.model,
      sha256: row.sha256,
      run_id: row.runId,
      iteration: row.iteration,
      record: row.record,
      trace_id: row.traceId,
      created_at: row.now,
    })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

/** The record of a model that some run has made. */
export async function findModel(ledger: Ledger, version: string): Promise<string | undefined> {
  const row = await ledger
    .selectFrom('models')
    .select('record')
    .where('version', '=', version)
    .executeTakeFirst();
  return row?.record;
}

/** Records an evaluation; the first one stands. */
export async function insertEvaluation(
  ledger: Ledger,
  row: IterationKey & {
    readonly beforeVersion: string;
    readonly afterVersion: string;
    readonly result: string;
    readonly manifest: string;
    readonly traceId: string;
    readonly now: Date;
  },
): Promise<void> {
  await ledger
    .insertInto('evaluations')
    .values({
      run_id: row.runId,
      iteration: row.iteration,
      before_version: row.beforeVersion,
      after_version: row.afterVersion,
      result: row.result,
      manifest: row.manifest,
      trace_id: row.traceId,
      created_at: row.now,
    })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

export async function findEvaluation(ledger: Ledger, key: IterationKey): Promise<EvaluationRow | undefined> {
  return await ledger
    .selectFrom('evaluations')
    .selectAll()
    .where('run_id', '=', key.runId)
    .where('iteration', '=', key.iteration)
    .executeTakeFirst();
}

/** Records the gate's decision; the first one stands. */
export async function insertDecision(
  ledger: Ledger,
  row: IterationKey & {
    readonly promoted: boolean;
    readonly rules: string;
    readonly traceId: string;
    readonly now: Date;
  },
): Promise<void> {
  await ledger
    .insertInto('decisions')
    .values({
      run_id: row.runId,
      iteration: row.iteration,
      promoted: row.promoted,
      rules: row.rules,
      trace_id: row.traceId,
      decided_at: row.now,
    })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

export async function findDecision(ledger: Ledger, key: IterationKey): Promise<DecisionRow | undefined> {
  return await ledger
    .selectFrom('decisions')
    .selectAll()
    .where('run_id', '=', key.runId)
    .where('iteration', '=', key.iteration)
    .executeTakeFirst();
}

/** Remembers that the registry has the decision, and which model the run goes on from. */
export async function markDecisionApplied(
  database: Kysely<Tables>,
  row: IterationKey & { readonly currentModel: string; readonly now: Date },
): Promise<void> {
  await database.transaction().execute(async (transaction) => {
    await transaction
      .updateTable('decisions')
      .set({ applied_at: row.now })
      .where('run_id', '=', row.runId)
      .where('iteration', '=', row.iteration)
      .where('applied_at', 'is', null)
      .execute();
    await transaction
      .updateTable('runs')
      .set({ current_model: row.currentModel })
      .where('id', '=', row.runId)
      .where('iteration', '=', row.iteration)
      .execute();
  });
}
