import { sql } from 'kysely';
import type { Kysely } from 'kysely';

/*
 * The first schema. Plain PostgreSQL, which PGlite is too. A migration that has been released is never edited: the next
 * change is the next file.
 *
 * What must never happen is a constraint here rather than a promise of the code: a sample is unique in its run, a score is a
 * finite value or an error and never both, a clip that was made has its address.
 */
const statements = [
  `create table runs (
    id text primary key,
    idempotency_key text not null unique,
    name text not null,
    spec text not null,
    state text not null check (state in ('running', 'paused', 'succeeded', 'failed', 'cancelled')),
    iteration integer not null check (iteration >= 1),
    error text check (error is not null or state <> 'failed'),
    current_model text not null,
    active_seconds double precision not null default 0 check (active_seconds >= 0),
    created_at timestamptz not null,
    ended_at timestamptz check ((ended_at is not null) = (state in ('succeeded', 'failed', 'cancelled')))
  )`,
  `create index runs_by_age on runs (created_at desc, id)`,

  `create table iterations (
    run_id text not null references runs (id),
    iteration integer not null check (iteration >= 1),
    model text not null,
    traceparent text,
    started_at timestamptz not null,
    ended_at timestamptz,
    primary key (run_id, iteration)
  )`,

  `create table samples (
    id text primary key check (id ~ '^[0-9a-f]{32}$'),
    run_id text not null,
    iteration integer not null,
    grp text not null check (grp in ('train', 'before', 'after')),
    position integer not null check (position >= 0),
    prompt_id text not null,
    prompt_text text not null,
    category text not null check (category in ('OR', 'MO', 'DO', 'DM', 'FD')),
    sample_index integer not null check (sample_index >= 0),
    seed text not null check (seed ~ '^[0-9]{1,20}$'),
    model_version text not null,
    model_sha256 text not null check (model_sha256 ~ '^[0-9a-f]{64}$'),
    clip_key text not null check (clip_key ~ '^[0-9a-f]{64}$'),
    state text not null check (state in ('planned', 'generated', 'scored', 'failed')),
    generate_attempts integer not null default 0,
    generate_published_at timestamptz,
    score_attempts integer not null default 0,
    score_published_at timestamptz,
    video text,
    video_sha256 text,
    preview text,
    accepted boolean,
    error_stage text check (error_stage in ('generate', 'score')),
    error_code text,
    error_reason text,
    error_message text,
    reused_from text references samples (id),
    traceparent text,
    created_at timestamptz not null,
    generated_at timestamptz,
    scored_at timestamptz,
    foreign key (run_id, iteration) references iterations (run_id, iteration),
    unique (run_id, iteration, grp, prompt_id, sample_index),
    check (state not in ('generated', 'scored') or (video is not null and video_sha256 is not null)),
    check ((state = 'failed') = (error_code is not null)),
    check ((error_code is null) = (error_stage is null))
  )`,
  `create index samples_to_generate on samples (run_id, iteration, grp, position)
    where state = 'planned' and generate_published_at is null`,
  `create index samples_to_score on samples (run_id, iteration, grp, position)
    where state = 'generated' and score_published_at is null`,
  `create index samples_of_run on samples (run_id, iteration, grp, position, id)`,
  `create index samples_by_clip on samples (clip_key) where video is not null`,

  `create table scores (
    sample_id text not null references samples (id),
    reward text not null,
    version text not null,
    weights_hash text not null,
    value double precision check (value > '-Infinity' and value < 'Infinity'),
    error_code text,
    error_reason text,
    error_message text,
    reason text not null default '',
    failure_mode text not null default '',
    checks text not null default '{}',
    details text not null default '{}',
    trace_id text not null default '',
    scored_at timestamptz not null,
    primary key (sample_id, reward),
    check ((value is null) <> (error_code is null))
  )`,

  `create table data_sets (
    run_id text not null,
    iteration integer not null,
    manifest text not null,
    samples integer not null check (samples >= 0),
    excluded integer not null check (excluded >= 0),
    trace_id text not null default '',
    created_at timestamptz not null,
    primary key (run_id, iteration),
    foreign key (run_id, iteration) references iterations (run_id, iteration)
  )`,

  `create table jobs (
    id text primary key,
    run_id text not null,
    iteration integer not null,
    attempt integer not null check (attempt >= 1),
    state text not null check (state in ('running', 'succeeded', 'failed', 'abandoned')),
    job text not null,
    created_at timestamptz not null,
    ended_at timestamptz,
    unique (run_id, iteration, attempt),
    foreign key (run_id, iteration) references iterations (run_id, iteration)
  )`,

  `create table training_progress (
    job_id text not null references jobs (id),
    step integer not null check (step >= 0),
    progress text not null,
    primary key (job_id, step)
  )`,

  `create table models (
    version text primary key,
    model text not null,
    sha256 text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    run_id text not null,
    iteration integer not null,
    record text not null,
    trace_id text not null default '',
    created_at timestamptz not null
  )`,

  `create table evaluations (
    run_id text not null,
    iteration integer not null,
    before_version text not null,
    after_version text not null,
    result text not null,
    manifest text not null,
    trace_id text not null default '',
    created_at timestamptz not null,
    primary key (run_id, iteration),
    foreign key (run_id, iteration) references iterations (run_id, iteration)
  )`,

  `create table decisions (
    run_id text not null,
    iteration integer not null,
    promoted boolean not null,
    rules text not null,
    trace_id text not null default '',
    decided_at timestamptz not null,
    applied_at timestamptz,
    primary key (run_id, iteration),
    foreign key (run_id, iteration) references evaluations (run_id, iteration)
  )`,

  `create table labels (
    id text primary key,
    idempotency_key text not null unique,
    sample_id text not null references samples (id),
    run_id text not null references runs (id),
    rater text not null check (rater <> ''),
    accept boolean,
    preferred_to text references samples (id) check (preferred_to <> sample_id),
    failure_mode text not null default '',
    created_at timestamptz not null,
    check ((accept is null) <> (preferred_to is null))
  )`,
  `create index labels_of_run on labels (run_id, created_at, id)`,
];

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}
