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
 * How many raters accept and reject the clip of each training sample of an iteration; samples that nobody has rated are left
 * out. A verdict is about a clip and its prompt: one that was given in another run on the same clip counts as well. Of a
 * rater who has rated a clip more than once, the newest verdict counts.
 */
export async function clipVerdicts(
  ledger: Ledger,
  { runId, iteration }: { readonly runId: string; readonly iteration: number },
): Promise<Map<string, { readonly accepting: number; readonly rejecting: number }>> {
  const { rows } = await sql<{ id: string; accepting: number; rejecting: number }>`
    select samples.id, count(*) filter (where said.accept)::integer as accepting,
      count(*) filter (where not said.accept)::integer as rejecting
    from samples join (
      select distinct on (rated.video_sha256, rated.prompt_text, labels.rater)
        rated.video_sha256, rated.prompt_text, labels.accept
      from labels join samples rated on rated.id = labels.sample_id
      where labels.accept is not null and ${isStanding}
      order by rated.video_sha256, rated.prompt_text, labels.rater, labels.created_at desc, labels.id
    ) said on said.video_sha256 = samples.video_sha256 and said.prompt_text = samples.prompt_text
    where samples.run_id = ${runId} and samples.iteration = ${iteration} and samples.grp = 'train'
    group by samples.id`.execute(ledger);
  return new Map(rows.map(({ id, accepting, rejecting }) => [id, { accepting, rejecting }]));
}

/** Of answers to one item, the last revision stands, unless it takes the answer back. */
const isStanding = sql<boolean>`not labels.withdrawn and not exists (select from labels later
  where later.session_id = labels.session_id and later.item = labels.item and later.rater = labels.rater
    and later.revision > labels.revision)`;

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
    .where(isStanding)
    .orderBy('created_at')
    .orderBy('id')
    .limit(options.limit);
  if (options.after !== undefined) {
    query = query.where(sql<boolean>`(created_at, id) > (${options.after.createdAt}, ${options.after.id})`);
  }
  return await query.execute();
}
