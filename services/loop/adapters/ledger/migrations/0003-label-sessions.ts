import { sql } from 'kysely';
import type { Kysely } from 'kysely';

/*
 * People rate in sessions: a fixed list of clips, or of pairs of clips, that several raters see, each in an order of their
 * own. Some items are no samples but clips of known truth; their answers say whether a rater looks. An answer is never
 * changed: a later revision replaces it, or takes it back.
 */
const statements = [
  `create table label_sessions (
    id text primary key,
    idempotency_key text not null unique,
    run_id text not null references runs (id),
    name text not null,
    kind text not null check (kind in ('verdict', 'preference')),
    trace_id text not null default '',
    created_at timestamptz not null
  )`,
  `create index label_sessions_of_run on label_sessions (run_id, created_at, id)`,
  `create table label_items (
    session_id text not null references label_sessions (id),
    item integer not null check (item >= 0),
    sample_id text references samples (id),
    other_sample_id text references samples (id) check (other_sample_id <> sample_id),
    known text,
    primary key (session_id, item),
    check ((sample_id is null) <> (known is null)),
    check (other_sample_id is null or sample_id is not null)
  )`,
  `alter table labels
    alter column sample_id drop not null,
    add column session_id text references label_sessions (id),
    add column item integer,
    add column revision integer not null default 1 check (revision >= 1),
    add column withdrawn boolean not null default false,
    add constraint labels_item foreign key (session_id, item) references label_items (session_id, item),
    add constraint labels_of_something check (sample_id is not null or session_id is not null),
    add constraint labels_in_session check ((session_id is null) = (item is null))`,
  `create unique index labels_of_item on labels (session_id, item, rater, revision) where session_id is not null`,
];

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}
