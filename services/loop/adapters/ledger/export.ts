import { sql } from 'kysely';
import type { Ledger } from './tables.ts';

/** What a column of an export holds. */
export type ColumnType = 'text' | 'integer' | 'double' | 'boolean' | 'timestamp' | 'json';

interface ExportTable {
  /** Columns in order, with their types. */
  readonly columns: Readonly<Record<string, ColumnType>>;
  /** From where, with the run's id as $1 in `run`. */
  readonly from: string;
  /** The condition on a run. */
  readonly run: string;
  /** A unique order. */
  readonly key: readonly string[];
}

const iteration = { run_id: 'text', iteration: 'integer' } as const;

/** The tables of an export: all that the ledger holds of a run. Columns in SQL are `t.<name>` unless the table says otherwise. */
export const exportTables: Readonly<Record<string, ExportTable>> = {
  runs: {
    columns: {
      id: 'text',
      idempotency_key: 'text',
      name: 'text',
      spec: 'json',
      state: 'text',
      iteration: 'integer',
      error: 'json',
      current_model: 'json',
      active_seconds: 'double',
      manifest: 'json',
      budgets: 'json',
      trace_id: 'text',
      created_at: 'timestamp',
      ended_at: 'timestamp',
    },
    from: 'runs t',
    run: 't.id',
    key: ['id'],
  },
  iterations: {
    columns: {
      ...iteration,
      model: 'json',
      traceparent: 'text',
      started_at: 'timestamp',
      ended_at: 'timestamp',
    },
    from: 'iterations t',
    run: 't.run_id',
    key: ['iteration'],
  },
  samples: {
    columns: {
      id: 'text',
      ...iteration,
      grp: 'text',
      position: 'integer',
      prompt_id: 'text',
      prompt_text: 'text',
      category: 'text',
      sample_index: 'integer',
      seed: 'text',
      model_version: 'text',
      model_sha256: 'text',
      state: 'text',
      generate_attempts: 'integer',
      score_attempts: 'integer',
      video: 'json',
      video_sha256: 'text',
      preview: 'json',
      latents: 'json',
      accepted: 'boolean',
      error_stage: 'text',
      error_code: 'text',
      error_reason: 'text',
      error_message: 'text',
      reused_from: 'text',
      traceparent: 'text',
      created_at: 'timestamp',
      generated_at: 'timestamp',
      scored_at: 'timestamp',
    },
    from: 'samples t',
    run: 't.run_id',
    key: ['id'],
  },
  scores: {
    columns: {
      sample_id: 'text',
      reward: 'text',
      version: 'text',
      weights_hash: 'text',
      rubric_hash: 'text',
      value: 'double',
      error_code: 'text',
      error_reason: 'text',
      error_message: 'text',
      reason: 'text',
      failure_mode: 'text',
      checks: 'json',
      details: 'json',
      trace_id: 'text',
      scored_at: 'timestamp',
    },
    from: 'scores t join samples s on s.id = t.sample_id',
    run: 's.run_id',
    key: ['sample_id', 'reward'],
  },
  sample_errors: {
    columns: {
      sample_id: 'text',
      stage: 'text',
      attempt: 'integer',
      reward: 'text',
      code: 'text',
      reason: 'text',
      message: 'text',
      trace_id: 'text',
      occurred_at: 'timestamp',
    },
    from: 'sample_errors t join samples s on s.id = t.sample_id',
    run: 's.run_id',
    key: ['sample_id', 'stage', 'attempt', 'reward', 'occurred_at'],
  },
  run_states: {
    columns: {
      position: 'integer',
      run_id: 'text',
      state: 'text',
      error: 'json',
      changed_at: 'timestamp',
    },
    from: 'run_states t',
    run: 't.run_id',
    key: ['position'],
  },
  data_sets: {
    columns: {
      ...iteration,
      manifest: 'json',
      samples: 'integer',
      excluded: 'integer',
      trace_id: 'text',
      created_at: 'timestamp',
    },
    from: 'data_sets t',
    run: 't.run_id',
    key: ['iteration'],
  },
  jobs: {
    columns: {
      id: 'text',
      ...iteration,
      attempt: 'integer',
      state: 'text',
      job: 'json',
      trace_id: 'text',
      created_at: 'timestamp',
      ended_at: 'timestamp',
    },
    from: 'jobs t',
    run: 't.run_id',
    key: ['id'],
  },
  training_progress: {
    columns: { job_id: 'text', step: 'integer', progress: 'json' },
    from: 'training_progress t join jobs j on j.id = t.job_id',
    run: 'j.run_id',
    key: ['job_id', 'step'],
  },
  models: {
    columns: {
      version: 'text',
      model: 'text',
      sha256: 'text',
      ...iteration,
      record: 'json',
      trace_id: 'text',
      created_at: 'timestamp',
    },
    from: 'models t',
    run: 't.run_id',
    key: ['version'],
  },
  evaluations: {
    columns: {
      ...iteration,
      before_version: 'text',
      after_version: 'text',
      result: 'json',
      manifest: 'json',
      trace_id: 'text',
      created_at: 'timestamp',
    },
    from: 'evaluations t',
    run: 't.run_id',
    key: ['iteration'],
  },
  decisions: {
    columns: {
      ...iteration,
      promoted: 'boolean',
      rules: 'json',
      trace_id: 'text',
      decided_at: 'timestamp',
      applied_at: 'timestamp',
    },
    from: 'decisions t',
    run: 't.run_id',
    key: ['iteration'],
  },
  overrides: {
    columns: {
      ...iteration,
      position: 'integer',
      promoted: 'boolean',
      reason: 'text',
      person: 'text',
      trace_id: 'text',
      created_at: 'timestamp',
    },
    from: 'overrides t',
    run: 't.run_id',
    key: ['iteration', 'position'],
  },
  labels: {
    columns: {
      id: 'text',
      sample_id: 'text',
      run_id: 'text',
      rater: 'text',
      accept: 'boolean',
      preferred_to: 'text',
      failure_mode: 'text',
      session_id: 'text',
      item: 'integer',
      revision: 'integer',
      withdrawn: 'boolean',
      trace_id: 'text',
      created_at: 'timestamp',
    },
    from: 'labels t',
    run: 't.run_id',
    key: ['id'],
  },
  label_sessions: {
    columns: {
      id: 'text',
      run_id: 'text',
      name: 'text',
      kind: 'text',
      trace_id: 'text',
      created_at: 'timestamp',
    },
    from: 'label_sessions t',
    run: 't.run_id',
    key: ['id'],
  },
  label_items: {
    columns: {
      session_id: 'text',
      item: 'integer',
      sample_id: 'text',
      other_sample_id: 'text',
      known: 'json',
    },
    from: 'label_items t join label_sessions s on s.id = t.session_id',
    run: 's.run_id',
    key: ['session_id', 'item'],
  },
};

/** Rows of one read. */
const batch = 500;

/**
 * The rows of a table that belong to a run, in the order of its key, some at a time; every row is an array of values in the
 * order of the columns. At least one batch, which may be empty.
 */
export async function* exportRows(
  ledger: Ledger,
  table: ExportTable,
  runId: string,
): AsyncGenerator<unknown[][], void, undefined> {
  const names = Object.keys(table.columns);
  const columns = sql.raw(names.map((name) => `t.${name}`).join(', '));
  const order = sql.raw(table.key.map((name) => `t.${name}`).join(', '));
  let after: unknown[] | undefined;
  for (;;) {
    const beyond = after === undefined ? sql`` : sql` and (${order}) > (${sql.join(after)})`;
    const { rows } = await sql<Record<string, unknown>>`
      select ${columns} from ${sql.raw(table.from)}
      where ${sql.raw(table.run)} = ${runId}${beyond} order by ${order} limit ${batch}`.execute(ledger);
    if (rows.length > 0 || after === undefined) yield rows.map((row) => names.map((name) => row[name]));
    const last = rows.at(-1);
    if (last === undefined || rows.length < batch) return;
    after = table.key.map((name) => last[name]);
  }
}
