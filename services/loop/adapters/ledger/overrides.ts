import type { Kysely, Selectable } from 'kysely';
import type { IterationKey } from './iterations.ts';
import type { Ledger, Tables } from './tables.ts';

export type OverrideRow = Selectable<Tables['overrides']>;

/** The override that holds; undefined where the gate's decision does. */
export async function latestOverride(ledger: Ledger, key: IterationKey): Promise<OverrideRow | undefined> {
  return await ledger
    .selectFrom('overrides')
    .selectAll()
    .where('run_id', '=', key.runId)
    .where('iteration', '=', key.iteration)
    .orderBy('position', 'desc')
    .executeTakeFirst();
}

/** The override that a key has made, if it has. */
export async function findOverrideByKey(ledger: Ledger, key: string): Promise<OverrideRow | undefined> {
  return await ledger
    .selectFrom('overrides')
    .selectAll()
    .where('idempotency_key', '=', key)
    .executeTakeFirst();
}

/**
 * Records what a person decided, and the model that the run goes on from where it still stands at that iteration. A key
 * that is known changes nothing.
 */
export async function insertOverride(
  database: Kysely<Tables>,
  row: IterationKey & {
    readonly idempotencyKey: string;
    readonly promoted: boolean;
    readonly reason: string;
    readonly person: string;
    readonly currentModel: string;
    readonly traceId: string;
    readonly now: Date;
  },
): Promise<void> {
  await database.transaction().execute(async (transaction) => {
    const earlier = await latestOverride(transaction, row);
    const inserted = await transaction
      .insertInto('overrides')
      .values({
        run_id: row.runId,
        iteration: row.iteration,
        position: (earlier?.position ?? 0) + 1,
        idempotency_key: row.idempotencyKey,
        promoted: row.promoted,
        reason: row.reason,
        person: row.person,
        trace_id: row.traceId,
        created_at: row.now,
      })
      .onConflict((conflict) => conflict.column('idempotency_key').doNothing())
      .executeTakeFirst();
    if (inserted.numInsertedOrUpdatedRows === 0n) return;
    await transaction
      .updateTable('runs')
      .set({ current_model: row.currentModel })
      .where('id', '=', row.runId)
      .where('iteration', '=', row.iteration)
      .execute();
  });
}
