import { sql } from 'kysely';
import type { Selectable } from 'kysely';
import type { Ledger, Tables } from './tables.ts';

export type LabelRow = Selectable<Tables['labels']>;

/** What a person said of a sample. Exactly one of `accept` and `preferredTo` is set. */
export interface NewLabel {
  readonly id: string;
  readonly idempotencyKey: string;
  readonly sampleId: string;
  readonly runId: string;
  readonly rater: string;
  readonly accept: boolean | null;
  readonly preferredTo: string | null;
  readonly failureMode: string;
  readonly traceId: string;
  readonly createdAt: Date;
}

/** Records a label, unless its idempotency key is taken; gives the row that the ledger has. */
export async function insertLabel(ledger: Ledger, label: NewLabel): Promise<LabelRow> {
  await ledger
    .insertInto('labels')
    .values({
      id: label.id,
      idempotency_key: label.idempotencyKey,
      sample_id: label.sampleId,
      run_id: label.runId,
      rater: label.rater,
      accept: label.accept,
      preferred_to: label.preferredTo,
      failure_mode: label.failureMode,
      trace_id: label.traceId,
      created_at: label.createdAt,
    })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
  return await ledger
    .selectFrom('labels')
    .selectAll()
    .where('idempotency_key', '=', label.idempotencyKey)
    .executeTakeFirstOrThrow();
}

/**
 * One page of a run's labels, oldest first; `after` is the last label of the page before. Answers that were replaced or taken
 * back, and those about clips of known truth, are no labels.
 */
export async function listLabels(
  ledger: Ledger,
  options: {
    readonly runId: string;
    readonly limit: number;
    readonly after?: { readonly createdAt: Date; readonly id: string } | undefined;
  },
): Promise<LabelRow[]> {
  let query = ledger
    .selectFrom('labels')
    .selectAll()
    .where('run_id', '=', options.runId)
    .where('sample_id', 'is not', null)
    .where('withdrawn', '=', false)
    .where(
      sql<boolean>`not exists (select from labels later where later.session_id = labels.session_id
        and later.item = labels.item and later.rater = labels.rater and later.revision > labels.revision)`,
    )
    .orderBy('created_at')
    .orderBy('id')
    .limit(options.limit);
  if (options.after !== undefined) {
    query = query.where(sql<boolean>`(created_at, id) > (${options.after.createdAt}, ${options.after.id})`);
  }
  return await query.execute();
}
