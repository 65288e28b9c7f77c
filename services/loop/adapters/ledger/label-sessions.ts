import { sql } from 'kysely';
import type { Kysely, Selectable } from 'kysely';
import type { LabelRow } from './labels.ts';
import type { Ledger, Tables } from './tables.ts';

export type LabelSessionRow = Selectable<Tables['label_sessions']>;
export type LabelItemRow = Selectable<Tables['label_items']>;

/** Rows of one insert. */
const insertBatch = 1_000;

/** Records a session with its items, unless its idempotency key is taken; gives the row that the ledger has. */
export async function insertSession(
  database: Kysely<Tables>,
  session: Omit<LabelSessionRow, 'trace_id'> & { readonly trace_id: string },
  items: readonly Omit<LabelItemRow, 'session_id' | 'item'>[],
): Promise<LabelSessionRow> {
  await database.transaction().execute(async (transaction) => {
    const { numInsertedOrUpdatedRows } = await transaction
      .insertInto('label_sessions')
      .values(session)
      .onConflict((conflict) => conflict.doNothing())
      .executeTakeFirstOrThrow();
    if (numInsertedOrUpdatedRows === 0n) return;
    for (let start = 0; start < items.length; start += insertBatch) {
      await transaction
        .insertInto('label_items')
        .values(
          items
            .slice(start, start + insertBatch)
            .map((item, index) => ({ ...item, session_id: session.id, item: start + index })),
        )
        .execute();
    }
  });
  const row = await findSessionByKey(database, session.idempotency_key);
  if (row === undefined) throw new Error(`label session ${session.id} was written and is not there`);
  return row;
}

export async function findSessionByKey(ledger: Ledger, key: string): Promise<LabelSessionRow | undefined> {
  return await ledger
    .selectFrom('label_sessions')
    .selectAll()
    .where('idempotency_key', '=', key)
    .executeTakeFirst();
}

export async function findSession(ledger: Ledger, id: string): Promise<LabelSessionRow | undefined> {
  return await ledger.selectFrom('label_sessions').selectAll().where('id', '=', id).executeTakeFirst();
}

/** One page of the sessions of a run, oldest first. */
export async function listSessions(
  ledger: Ledger,
  options: {
    readonly runId: string;
    readonly limit: number;
    readonly after?: { readonly createdAt: Date; readonly id: string } | undefined;
  },
): Promise<LabelSessionRow[]> {
  let query = ledger
    .selectFrom('label_sessions')
    .selectAll()
    .where('run_id', '=', options.runId)
    .orderBy('created_at')
    .orderBy('id')
    .limit(options.limit);
  if (options.after !== undefined) {
    query = query.where(sql<boolean>`(created_at, id) > (${options.after.createdAt}, ${options.after.id})`);
  }
  return await query.execute();
}

/** The items of a session, in its order. */
export async function itemsOf(ledger: Ledger, sessionId: string): Promise<LabelItemRow[]> {
  return await ledger
    .selectFrom('label_items')
    .selectAll()
    .where('session_id', '=', sessionId)
    .orderBy('item')
    .execute();
}

/** The answers of a session that stand: the last revision of each rater and item, unless it takes the answer back. */
export async function standingAnswers(
  ledger: Ledger,
  sessionId: string,
  rater?: string,
): Promise<LabelRow[]> {
  let query = ledger
    .selectFrom('labels')
    .selectAll()
    .distinctOn(['item', 'rater'])
    .where('session_id', '=', sessionId)
    .orderBy('item')
    .orderBy('rater')
    .orderBy('revision', 'desc');
  if (rater !== undefined) query = query.where('rater', '=', rater);
  return (await query.execute()).filter(({ withdrawn }) => !withdrawn);
}

/** An answer of a rater to an item; it gets the next revision. */
export interface NewAnswer {
  readonly id: string;
  readonly idempotencyKey: string;
  readonly runId: string;
  readonly sessionId: string;
  readonly item: number;
  readonly rater: string;
  readonly sampleId: string | null;
  readonly accept: boolean | null;
  readonly preferredTo: string | null;
  readonly failureMode: string;
  /** Takes back what is given with it. */
  readonly withdrawn: boolean;
  readonly traceId: string;
  readonly createdAt: Date;
}

/** Records an answer, unless its idempotency key is taken; gives the row that the ledger has. */
export async function insertAnswer(ledger: Ledger, answer: NewAnswer): Promise<LabelRow> {
  for (;;) {
    const standing = await ledger
      .selectFrom('labels')
      .selectAll()
      .where('idempotency_key', '=', answer.idempotencyKey)
      .executeTakeFirst();
    if (standing !== undefined) return standing;
    // Of two answers at one moment, one finds its revision taken and counts again.
    await sql`insert into labels (id, idempotency_key, sample_id, run_id, rater, accept, preferred_to, failure_mode,
        session_id, item, revision, withdrawn, trace_id, created_at)
      select ${answer.id}, ${answer.idempotencyKey}, ${answer.sampleId}, ${answer.runId}, ${answer.rater},
        ${answer.accept}::boolean, ${answer.preferredTo}, ${answer.failureMode}, ${answer.sessionId}, ${answer.item}::integer,
        coalesce(max(revision), 0) + 1, ${answer.withdrawn}::boolean, ${answer.traceId}, ${answer.createdAt.toISOString()}::timestamptz
      from labels
      where session_id = ${answer.sessionId} and item = ${answer.item}::integer and rater = ${answer.rater}
      on conflict do nothing`.execute(ledger);
  }
}
