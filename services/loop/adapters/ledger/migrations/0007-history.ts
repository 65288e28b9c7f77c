import { sql } from 'kysely';
import type { Kysely } from 'kysely';

/*
 * A resumption tries failed samples again, and clears the reason of the pause: what went wrong before stays here. Rows are only
 * added. What stood when the schema was brought up to date is taken over; what was cleared before that is gone.
 */
const statements = [
  `create table sample_errors (
    sample_id text not null references samples (id),
    stage text not null check (stage in ('generate', 'score')),
    attempt integer not null,
    reward text not null default '',
    code text not null,
    reason text not null,
    message text not null,
    trace_id text not null default '',
    occurred_at timestamptz not null,
    primary key (sample_id, stage, attempt, reward, occurred_at)
  )`,
  `insert into sample_errors
    select t.sample_id, 'score', s.score_attempts, t.reward, t.error_code, coalesce(t.error_reason, ''),
      coalesce(t.error_message, ''), t.trace_id, t.scored_at
    from scores t join samples s on s.id = t.sample_id
    where t.error_code is not null`,
  `insert into sample_errors
    select s.id, s.error_stage, case s.error_stage when 'generate' then s.generate_attempts else s.score_attempts end, '',
      s.error_code, coalesce(s.error_reason, ''), coalesce(s.error_message, ''), '',
      coalesce(s.score_published_at, s.generate_published_at, s.created_at)
    from samples s
    where s.state = 'failed' and s.error_code is not null
      and not exists (select from scores t where t.sample_id = s.id and t.error_code is not null)`,
  `create table run_states (
    position integer generated always as identity primary key,
    run_id text not null references runs (id),
    state text not null,
    error text,
    changed_at timestamptz not null
  )`,
  `create index run_states_of_run on run_states (run_id, position)`,
  `insert into run_states (run_id, state, error, changed_at)
    select id, state, error, coalesce(ended_at, created_at) from runs order by created_at, id`,
];

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}
