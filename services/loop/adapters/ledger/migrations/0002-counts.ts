import { sql } from 'kysely';
import type { Kysely } from 'kysely';

/*
 * How the samples of a group stand was counted anew at every look, over all rows of the run: the cost of a run grew with the
 * square of its size. From here on the database keeps the counts itself, by triggers that see whole statements: they cannot
 * be forgotten by a new query, and one statement on a thousand samples is one update of a count.
 *
 * Also: what a person decided against the gate, the manifest of a run, and the trace of what had none yet.
 */
const conditions: Readonly<Record<string, string>> = {
  rows_total: 'true',
  to_generate: "state = 'planned' and generate_published_at is null",
  generating: "state = 'planned' and generate_published_at is not null",
  to_score: "state = 'generated' and score_published_at is null",
  scoring: "state = 'generated' and score_published_at is not null",
  scored: "state = 'scored'",
  failed: "state = 'failed'",
  clips: 'video is not null',
  accepted: 'accepted is true',
  reused: 'reused_from is not null',
};
const names = Object.keys(conditions);

/** Counts of a transition table, with the sign that they are added with. */
function counted(table: string, sign: '+' | '-'): string {
  const columns = Object.entries(conditions).map(
    ([name, condition]) => `${sign}(count(*) filter (where ${condition})) as ${name}`,
  );
  return `select run_id, iteration, grp, ${columns.join(', ')},
      min(generate_published_at) as first_published_at, max(generated_at) as last_generated_at, max(scored_at) as last_scored_at
    from ${table} group by run_id, iteration, grp`;
}

// Groups in one order, so that two transactions that touch the same ones wait for each other and never in a circle.
function summed(tables: string): string {
  return `select run_id, iteration, grp, ${names.map((name) => `sum(${name})::integer as ${name}`).join(', ')},
      min(first_published_at) as first_published_at, max(last_generated_at) as last_generated_at,
      max(last_scored_at) as last_scored_at
    from (${tables}) as changes group by run_id, iteration, grp order by run_id, iteration, grp`;
}

const added = `insert into group_counts
    (run_id, iteration, grp, ${names.join(', ')}, first_published_at, last_generated_at, last_scored_at)
  select * from delta
  on conflict (run_id, iteration, grp) do update set
    ${names.map((name) => `${name} = group_counts.${name} + excluded.${name}`).join(', ')},
    first_published_at = least(group_counts.first_published_at, excluded.first_published_at),
    last_generated_at = greatest(group_counts.last_generated_at, excluded.last_generated_at),
    last_scored_at = greatest(group_counts.last_scored_at, excluded.last_scored_at)`;

const statements = [
  `create table group_counts (
    run_id text not null,
    iteration integer not null,
    grp text not null,
    ${names.map((name) => `${name} integer not null`).join(', ')},
    first_published_at timestamptz,
    last_generated_at timestamptz,
    last_scored_at timestamptz,
    primary key (run_id, iteration, grp),
    foreign key (run_id, iteration) references iterations (run_id, iteration)
  )`,
  `create function count_inserted_samples() returns trigger language plpgsql as $$
    begin
      with delta as (${summed(counted('added', '+'))}) ${added};
      return null;
    end $$`,
  `create function count_updated_samples() returns trigger language plpgsql as $$
    begin
      with delta as (${summed(`${counted('added', '+')} union all ${counted('removed', '-')}`)}) ${added};
      return null;
    end $$`,
  `create trigger samples_inserted after insert on samples
    referencing new table as added for each statement execute function count_inserted_samples()`,
  `create trigger samples_updated after update on samples
    referencing old table as removed new table as added for each statement execute function count_updated_samples()`,
  `with delta as (${summed(counted('samples', '+'))}) ${added}`,

  `create table overrides (
    run_id text not null,
    iteration integer not null,
    position integer not null check (position >= 1),
    idempotency_key text not null unique,
    promoted boolean not null,
    reason text not null check (reason <> ''),
    person text not null check (person <> ''),
    trace_id text not null default '',
    created_at timestamptz not null,
    primary key (run_id, iteration, position),
    foreign key (run_id, iteration) references decisions (run_id, iteration)
  )`,
  `alter table runs add column manifest text, add column budgets text, add column trace_id text not null default ''`,
  `alter table jobs add column trace_id text not null default ''`,
  `alter table labels add column trace_id text not null default ''`,
];

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}
