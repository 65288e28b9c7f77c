import type { ColumnType, Kysely, Transaction } from 'kysely';
import type { CategoryId } from '../../domain/categories.ts';
import type { Group } from '../../domain/groups.ts';

/*
 * The ledger's tables as Kysely sees them. Columns that hold a message (`spec`, `video`, ...) hold its ProtoJSON or JSON as
 * text: the ledger never looks inside, and both databases give the same string back.
 */

/** A point in time; written by the service's clock, never by the database's. */
type Timestamp = ColumnType<Date, Date, Date>;
type NullableTimestamp = ColumnType<Date | null, Date | null | undefined, Date | null>;
/** May be left out of an insert. */
type Optional<T> = ColumnType<T, T | undefined, T>;

export const runStates = ['running', 'paused', 'succeeded', 'failed', 'cancelled'] as const;
export type RunStateName = (typeof runStates)[number];

export const sampleStates = ['planned', 'generated', 'scored', 'failed'] as const;
export type SampleStateName = (typeof sampleStates)[number];

interface RunsTable {
  id: string;
  idempotency_key: string;
  name: string;
  /** plumb.loop.v1.RunSpec */
  spec: string;
  state: RunStateName;
  iteration: number;
  /** google.rpc.Status as JSON: why it is paused or failed. */
  error: Optional<string | null>;
  /** plumb.models.v1.ModelVersion that the run would sample from next. */
  current_model: string;
  active_seconds: Optional<number>;
  /** plumb.media.v1.Artifact of the manifest, when it has succeeded. */
  manifest: Optional<string | null>;
  /** plumb.loop.v1.Budgets that a resumption has put in the place of the spec's. */
  budgets: Optional<string | null>;
  trace_id: Optional<string>;
  created_at: Timestamp;
  ended_at: NullableTimestamp;
}

interface IterationsTable {
  run_id: string;
  iteration: number;
  /** The model that it started from. */
  model: string;
  /** W3C traceparent of the iteration's trace. */
  traceparent: Optional<string | null>;
  started_at: Timestamp;
  ended_at: NullableTimestamp;
}

interface SamplesTable {
  id: string;
  run_id: string;
  iteration: number;
  grp: Group;
  position: number;
  prompt_id: string;
  prompt_text: string;
  category: CategoryId;
  sample_index: number;
  /** uint64 as decimal digits. */
  seed: string;
  model_version: string;
  model_sha256: string;
  clip_key: string;
  state: SampleStateName;
  generate_attempts: Optional<number>;
  generate_published_at: NullableTimestamp;
  score_attempts: Optional<number>;
  score_published_at: NullableTimestamp;
  /** plumb.media.v1.Video by reference. */
  video: Optional<string | null>;
  video_sha256: Optional<string | null>;
  /** plumb.media.v1.Artifact */
  preview: Optional<string | null>;
  /** plumb.media.v1.Artifact; of training clips of latent pipelines. */
  latents: Optional<string | null>;
  /** The verdict of the evaluation's reward; null where there is none. */
  accepted: Optional<boolean | null>;
  error_stage: Optional<'generate' | 'score' | null>;
  error_code: Optional<string | null>;
  error_reason: Optional<string | null>;
  error_message: Optional<string | null>;
  reused_from: Optional<string | null>;
  /** W3C traceparent of the sample's life. */
  traceparent: Optional<string | null>;
  created_at: Timestamp;
  generated_at: NullableTimestamp;
  scored_at: NullableTimestamp;
}

interface ScoresTable {
  sample_id: string;
  reward: string;
  version: string;
  weights_hash: string;
  /** Of a judge's rubric; empty for other rewards. */
  rubric_hash: Optional<string>;
  value: Optional<number | null>;
  error_code: Optional<string | null>;
  error_reason: Optional<string | null>;
  error_message: Optional<string | null>;
  /** The judge's words. */
  reason: Optional<string>;
  failure_mode: Optional<string>;
  /** JSON object of booleans. */
  checks: Optional<string>;
  /** JSON object of numbers. */
  details: Optional<string>;
  trace_id: Optional<string>;
  scored_at: Timestamp;
}

interface DataSetsTable {
  run_id: string;
  iteration: number;
  /** plumb.media.v1.Artifact of the manifest. */
  manifest: string;
  samples: number;
  excluded: number;
  trace_id: Optional<string>;
  created_at: Timestamp;
}

interface JobsTable {
  id: string;
  run_id: string;
  iteration: number;
  /** From 1; a resumed run trains again under the next. */
  attempt: number;
  /** `abandoned`: it had failed, and the run was resumed since; or the trainer has lost it. */
  state: 'running' | 'succeeded' | 'failed' | 'abandoned';
  /** plumb.trainer.v1.Job */
  job: string;
  trace_id: Optional<string>;
  created_at: Timestamp;
  ended_at: NullableTimestamp;
}

interface TrainingProgressTable {
  job_id: string;
  step: number;
  /** plumb.trainer.v1.TrainingProgress */
  progress: string;
}

interface ModelsTable {
  version: string;
  model: string;
  sha256: string;
  run_id: string;
  iteration: number;
  /** plumb.models.v1.ModelVersion as it was registered. */
  record: string;
  trace_id: Optional<string>;
  created_at: Timestamp;
}

interface EvaluationsTable {
  run_id: string;
  iteration: number;
  before_version: string;
  after_version: string;
  /** IterationEvaluation of domain/evaluation.ts. */
  result: string;
  /** plumb.media.v1.Artifact of the manifest. */
  manifest: string;
  trace_id: Optional<string>;
  created_at: Timestamp;
}

interface DecisionsTable {
  run_id: string;
  iteration: number;
  promoted: boolean;
  /** Rule results, JSON. */
  rules: string;
  trace_id: Optional<string>;
  decided_at: Timestamp;
  /** When the registry had it. */
  applied_at: NullableTimestamp;
}

interface LabelsTable {
  id: string;
  idempotency_key: string;
  /** Null for an answer about a clip of known truth. */
  sample_id: string | null;
  run_id: string;
  rater: string;
  accept: Optional<boolean | null>;
  preferred_to: Optional<string | null>;
  failure_mode: Optional<string>;
  /** The session that it was given in, and the place there; null for a label that a program wrote. */
  session_id: Optional<string | null>;
  item: Optional<number | null>;
  /** From 1: the highest of a rater's revisions of an item stands. */
  revision: Optional<number>;
  /** Takes back the answer that it repeats. */
  withdrawn: Optional<boolean>;
  trace_id: Optional<string>;
  created_at: Timestamp;
}

interface LabelSessionsTable {
  id: string;
  idempotency_key: string;
  run_id: string;
  name: string;
  kind: 'verdict' | 'preference';
  trace_id: Optional<string>;
  created_at: Timestamp;
}

/** What a session shows: a sample, two samples, or a clip of known truth. */
interface LabelItemsTable {
  session_id: string;
  item: number;
  sample_id: string | null;
  other_sample_id: string | null;
  /** plumb.loop.v1.KnownClip */
  known: string | null;
}

/** How the samples of a group stand; kept by triggers on `samples`, and never written by us. */
interface GroupCountsTable {
  run_id: string;
  iteration: number;
  grp: Group;
  rows_total: number;
  to_generate: number;
  generating: number;
  to_score: number;
  scoring: number;
  scored: number;
  failed: number;
  clips: number;
  accepted: number;
  reused: number;
  first_published_at: NullableTimestamp;
  last_generated_at: NullableTimestamp;
  last_scored_at: NullableTimestamp;
}

/** What a person decided against the gate; the one with the highest position holds. */
interface OverridesTable {
  run_id: string;
  iteration: number;
  /** From 1. */
  position: number;
  idempotency_key: string;
  promoted: boolean;
  reason: string;
  person: string;
  trace_id: Optional<string>;
  created_at: Timestamp;
}

/** Every error that a sample has met, also those of earlier attempts; rows are only added. */
interface SampleErrorsTable {
  sample_id: string;
  stage: 'generate' | 'score';
  /** Of the sample in this stage, from 1. */
  attempt: number;
  /** Empty where no single reward is to blame. */
  reward: string;
  code: string;
  reason: string;
  message: string;
  trace_id: Optional<string>;
  occurred_at: Timestamp;
}

/** Every state that a run has been in, with the reason of a pause or a failure; rows are only added. */
interface RunStatesTable {
  position: ColumnType<number, never, never>;
  run_id: string;
  state: RunStateName;
  /** google.rpc.Status as JSON. */
  error: string | null;
  changed_at: Timestamp;
}

export interface Tables {
  runs: RunsTable;
  iterations: IterationsTable;
  samples: SamplesTable;
  scores: ScoresTable;
  data_sets: DataSetsTable;
  jobs: JobsTable;
  training_progress: TrainingProgressTable;
  models: ModelsTable;
  evaluations: EvaluationsTable;
  decisions: DecisionsTable;
  labels: LabelsTable;
  label_sessions: LabelSessionsTable;
  label_items: LabelItemsTable;
  group_counts: GroupCountsTable;
  overrides: OverridesTable;
  sample_errors: SampleErrorsTable;
  run_states: RunStatesTable;
}

/** The ledger, or a transaction on it. */
export type Ledger = Kysely<Tables> | Transaction<Tables>;
