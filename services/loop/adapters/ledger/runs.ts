import { sql } from 'kysely';
import type { Kysely, Selectable } from 'kysely';
import type { Ledger, RunStateName, Tables } from './tables.ts';

export type RunRow = Selectable<Tables['runs']>;
export type IterationRow = Selectable<Tables['iterations']>;

/** A run to be recorded, in state running and at its first iteration. */
export interface NewRun {
  readonly id: string;
  readonly idempotencyKey: string;
  readonly name: string;
  readonly spec: string;
  readonly model: string;
  readonly traceId: string;
  readonly createdAt: Date;
}

/** Records a run with its first iteration, unless its idempotency key is taken; gives the row that the ledger has. */
export async function insertRun(database: Kysely<Tables>, run: NewRun): Promise<RunRow> {
  return await database.transaction().execute(async (transaction) => {
    const inserted = await transaction
      .insertInto('runs')
      .values({
        id: run.id,
        idempotency_key: run.idempotencyKey,
        name: run.name,
        spec: run.spec,
        state: 'running',
        iteration: 1,
        current_model: run.model,
        trace_id: run.traceId,
        created_at: run.createdAt,
      })
      .onConflict((conflict) => conflict.doNothing())
      .executeTakeFirstOrThrow();
    await insertIteration(transaction, {
      runId: run.id,
      iteration: 1,
      model: run.model,
      startedAt: run.createdAt,
    });
    if ((inserted.numInsertedOrUpdatedRows ?? 0n) > 0n) {
      await transaction
        .insertInto('run_states')
        .values({ run_id: run.id, state: 'running', error: null, changed_at: run.createdAt })
        .execute();
    }
    return await transaction
      .selectFrom('runs')
      .selectAll()
      .where('idempotency_key', '=', run.idempotencyKey)
      .executeTakeFirstOrThrow();
  });
}

export async function findRun(ledger: Ledger, id: string): Promise<RunRow | undefined> {
  return await ledger.selectFrom('runs').selectAll().where('id', '=', id).executeTakeFirst();
}

/** The run that a key has made, if it has. */
export async function findRunByKey(ledger: Ledger, key: string): Promise<RunRow | undefined> {
  return await ledger.selectFrom('runs').selectAll().where('idempotency_key', '=', key).executeTakeFirst();
}

/** Newest first; `after` is the last run of the page before. */
export async function listRuns(
  ledger: Ledger,
  options: {
    readonly limit: number;
    readonly after?: { readonly createdAt: Date; readonly id: string } | undefined;
  },
): Promise<RunRow[]> {
  let query = ledger.selectFrom('runs').selectAll().orderBy('created_at', 'desc').orderBy('id', 'desc');
  if (options.after !== undefined) {
    query = query.where(sql<boolean>`(created_at, id) < (${options.after.createdAt}, ${options.after.id})`);
  }
  return await query.limit(options.limit).execute();
}

/** Ids of the runs that have work to be done. */
export async function listRunningRuns(ledger: Ledger): Promise<string[]> {
  const rows = await ledger
    .selectFrom('runs')
    .select('id')
    .where('state', '=', 'running')
    .orderBy('created_at')
    .execute();
  return rows.map(({ id }) => id);
}

/** Runs that are paused, with the status that they were paused with; none for those that somebody paused. Newest 256. */
export async function listPausedRuns(ledger: Ledger): Promise<{ id: string; error: string | null }[]> {
  return await ledger
    .selectFrom('runs')
    .select(['id', 'error'])
    .where('state', '=', 'paused')
    .orderBy('created_at', 'desc')
    .limit(256)
    .execute();
}

/**
 * Moves a run from one of some states to another, and writes it to the history of its states; false when it was in none of
 * them. `error` is kept for paused and failed runs and cleared otherwise.
 */
export async function moveRun(
  ledger: Ledger,
  options: {
    readonly id: string;
    readonly from: readonly RunStateName[];
    readonly to: RunStateName;
    readonly error?: string | undefined;
    readonly now: Date;
  },
): Promise<boolean> {
  const { id, from, to, error = null, now } = options;
  const ended = to === 'succeeded' || to === 'failed' || to === 'cancelled';
  const { rows } = await sql`
    with moved as (
      update runs set state = ${to}, error = ${error}, ended_at = ${ended ? now : null}
      where id = ${id} and state in (${sql.join(from)})
      returning id, state, error
    )
    insert into run_states (run_id, state, error, changed_at)
    select id, state, error, ${now} from moved
    returning run_id`.execute(ledger);
  return rows.length > 0;
}

/** Puts a run's budgets in the place of those that held. */
export async function setBudgets(ledger: Ledger, id: string, budgets: string): Promise<void> {
  await ledger.updateTable('runs').set({ budgets }).where('id', '=', id).execute();
}

/** Adds working time to a run. */
export async function addActiveSeconds(ledger: Ledger, id: string, seconds: number): Promise<void> {
  await ledger
    .updateTable('runs')
    .set({ active_seconds: sql<number>`active_seconds + ${seconds}` })
    .where('id', '=', id)
    .execute();
}

export async function findIteration(
  ledger: Ledger,
  runId: string,
  iteration: number,
): Promise<IterationRow | undefined> {
  return await ledger
    .selectFrom('iterations')
    .selectAll()
    .where('run_id', '=', runId)
    .where('iteration', '=', iteration)
    .executeTakeFirst();
}

export async function listIterations(ledger: Ledger, runId: string): Promise<IterationRow[]> {
  return await ledger
    .selectFrom('iterations')
    .selectAll()
    .where('run_id', '=', runId)
    .orderBy('iteration')
    .execute();
}

/** Remembers the iteration's trace, once: a restarted loop continues the trace that is there. */
export async function setIterationTrace(
  ledger: Ledger,
  options: { readonly runId: string; readonly iteration: number; readonly traceparent: string },
): Promise<void> {
  await ledger
    .updateTable('iterations')
    .set({ traceparent: options.traceparent })
    .where('run_id', '=', options.runId)
    .where('iteration', '=', options.iteration)
    .where('traceparent', 'is', null)
    .execute();
}

/** Ends an iteration and begins the next from the run's current model; doing it twice is doing it once. */
export async function advanceIteration(
  database: Kysely<Tables>,
  options: { readonly runId: string; readonly ended: number; readonly now: Date },
): Promise<void> {
  await database.transaction().execute(async (transaction) => {
    const run = await transaction
      .updateTable('runs')
      .set({ iteration: options.ended + 1 })
      .where('id', '=', options.runId)
      .where('iteration', '=', options.ended)
      .returning('current_model')
      .executeTakeFirst();
    if (run === undefined) return;
    await endIteration(transaction, options);
    await insertIteration(transaction, {
      runId: options.runId,
      iteration: options.ended + 1,
      model: run.current_model,
      startedAt: options.now,
    });
  });
}

/** Ends the last iteration and the run. */
export async function finishRun(
  database: Kysely<Tables>,
  options: {
    readonly runId: string;
    readonly ended: number;
    /** plumb.media.v1.Artifact of the run's manifest. */
    readonly manifest: string;
    readonly now: Date;
  },
): Promise<void> {
  await database.transaction().execute(async (transaction) => {
    await endIteration(transaction, options);
    await transaction
      .updateTable('runs')
      .set({ manifest: options.manifest })
      .where('id', '=', options.runId)
      .execute();
    await moveRun(transaction, { id: options.runId, from: ['running'], to: 'succeeded', now: options.now });
  });
}

async function endIteration(
  ledger: Ledger,
  options: { readonly runId: string; readonly ended: number; readonly now: Date },
): Promise<void> {
  await ledger
    .updateTable('iterations')
    .set({ ended_at: options.now })
    .where('run_id', '=', options.runId)
    .where('iteration', '=', options.ended)
    .where('ended_at', 'is', null)
    .execute();
}

async function insertIteration(
  ledger: Ledger,
  options: {
    readonly runId: string;
    readonly iteration: number;
    readonly model: string;
    readonly startedAt: Date;
  },
): Promise<void> {
  await ledger
    .insertInto('iterations')
    .values({
      run_id: options.runId,
      iteration: options.iteration,
      model: options.model,
      started_at: options.startedAt,
    })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}
