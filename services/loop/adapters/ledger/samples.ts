import { setImmediate } from 'node:timers/promises';
import { sql } from 'kysely';
import type { Kysely, Selectable } from 'kysely';
import type { CategoryId } from '../../domain/categories.ts';
import { groups } from '../../domain/groups.ts';
import type { Group } from '../../domain/groups.ts';
import type { GroupCounts, Queue } from '../../domain/plan.ts';
import type { PlannedSample } from '../../domain/sample-plan.ts';
import { acceptThreshold } from '../../domain/sample-record.ts';
import type { Ledger, Tables } from './tables.ts';

export type SampleRow = Selectable<Tables['samples']>;

/** Rows of one insert: 17 columns each, and PostgreSQL takes 65,535 parameters. */
const insertBatch = 500;
/** Ids of one `in` list. */
const idBatch = 1_000;
/** Samples of one read. */
const readBatch = 1_000;

/** Writes planned samples down; those that are there already stay as they are. */
export async function insertSamples(
  ledger: Ledger,
  samples: Iterable<PlannedSample>,
  createdAt: Date,
): Promise<void> {
  for await (const batch of chunks(samples, insertBatch)) {
    await ledger
      .insertInto('samples')
      .values(
        batch.map((sample) => ({
          id: sample.id,
          run_id: sample.runId,
          iteration: sample.iteration,
          grp: sample.group,
          position: sample.position,
          prompt_id: sample.promptId,
          prompt_text: sample.promptText,
          category: sample.category,
          sample_index: sample.sampleIndex,
          seed: sample.seed.toString(),
          model_version: sample.modelVersion,
          model_sha256: sample.modelSha256,
          clip_key: sample.clipKey,
          state: 'planned' as const,
          created_at: createdAt,
        })),
      )
      .onConflict((conflict) => conflict.doNothing())
      .execute();
  }
}

/** How the samples of a group stand, with the times that progress is told by. */
export interface GroupProgress extends Omit<GroupCounts, 'expected'> {
  readonly iteration: number;
  readonly group: Group;
  /** Samples that have a clip. */
  readonly clips: number;
  readonly accepted: number;
  readonly reused: number;
  readonly firstPublishedAt: Date | null;
  readonly lastGeneratedAt: Date | null;
  readonly lastScoredAt: Date | null;
}

/** Counts of every group that has rows, of one iteration or of all. A few rows are read, however many samples there are. */
export async function countSamples(
  ledger: Ledger,
  runId: string,
  iteration?: number,
): Promise<GroupProgress[]> {
  let query = ledger
    .selectFrom('group_counts')
    .select([
      'iteration',
      'grp as group',
      'rows_total as rows',
      'to_generate as toGenerate',
      'generating',
      'to_score as toScore',
      'scoring',
      'scored',
      'failed',
      'clips',
      'accepted',
      'reused',
      'first_published_at as firstPublishedAt',
      'last_generated_at as lastGeneratedAt',
      'last_scored_at as lastScoredAt',
    ])
    .where('run_id', '=', runId)
    .orderBy('iteration')
    .orderBy('grp');
  if (iteration !== undefined) query = query.where('iteration', '=', iteration);
  return await query.execute();
}

/** What a task is made of. A look at the ledger reads no more than that: it is most of what a sample costs. */
const dueColumns = [
  'id',
  'run_id',
  'iteration',
  'grp',
  'prompt_id',
  'prompt_text',
  'category',
  'sample_index',
  'seed',
  'model_version',
  'clip_key',
  'generate_attempts',
  'score_attempts',
  'video',
  'traceparent',
] as const;

/** A sample whose task is due. */
export type DueSample = Pick<SampleRow, (typeof dueColumns)[number]>;

/** The next samples to be enqueued, in the order of the plan: training prompts before held-out ones. */
export async function nextToPublish(
  ledger: Ledger,
  options: {
    readonly runId: string;
    readonly iteration: number;
    readonly queue: Queue;
    readonly limit: number;
  },
): Promise<DueSample[]> {
  const rows: DueSample[] = [];
  for (const group of groups) {
    if (rows.length >= options.limit) break;
    const base = ledger
      .selectFrom('samples')
      .select(dueColumns)
      .where('run_id', '=', options.runId)
      .where('iteration', '=', options.iteration)
      .where('grp', '=', group);
    // Literals, not parameters: only so does the planner see that the partial index holds the answer.
    const due =
      options.queue === 'generate'
        ? base.where('state', '=', sql.lit('planned')).where('generate_published_at', 'is', null)
        : base.where('state', '=', sql.lit('generated')).where('score_published_at', 'is', null);
    rows.push(
      ...(await due
        .orderBy('position')
        .limit(options.limit - rows.length)
        .execute()),
    );
  }
  return rows;
}

/** Remembers that tasks are out, with the trace that each sample lives in; a trace that is known stays. */
export async function markPublished(
  ledger: Ledger,
  queue: Queue,
  published: readonly { readonly id: string; readonly traceparent?: string | undefined }[],
  now: Date,
): Promise<void> {
  if (published.length === 0) return;
  const from = sql`from unnest(${published.map(({ id }) => id)}::text[],
      ${published.map(({ traceparent }) => traceparent ?? null)}::text[]) as given (id, traceparent)
    where samples.id = given.id`;
  const trace = sql`traceparent = coalesce(samples.traceparent, given.traceparent)`;
  const at = sql`${now.toISOString()}::timestamptz`;
  await (
    queue === 'generate'
      ? sql`update samples set generate_published_at = ${at}, generate_attempts = generate_attempts + 1, ${trace}
          ${from} and samples.state = 'planned'`
      : sql`update samples set score_published_at = ${at}, score_attempts = score_attempts + 1, ${trace}
          ${from} and samples.state = 'generated'`
  ).execute(ledger);
}

/** Takes back that tasks are out: they brought nothing for a long time, and will be enqueued again. Returns how many. */
export async function takeBackPublished(
  ledger: Ledger,
  options: {
    readonly runId: string;
    readonly iteration: number;
    readonly queue: Queue;
    readonly before: Date;
  },
): Promise<number> {
  const update = ledger
    .updateTable('samples')
    .where('run_id', '=', options.runId)
    .where('iteration', '=', options.iteration);
  const result = await (
    options.queue === 'generate'
      ? update
          .set({ generate_published_at: null })
          .where('state', '=', 'planned')
          .where('generate_published_at', '<=', options.before)
      : update
          .set({ score_published_at: null })
          .where('state', '=', 'generated')
          .where('score_published_at', '<=', options.before)
  ).executeTakeFirst();
  return Number(result.numUpdatedRows);
}

/** A clip that was made. */
export interface GeneratedClip {
  readonly sampleId: string;
  readonly video: string;
  readonly videoSha256: string;
  readonly preview: string | null;
  readonly latents: string | null;
  readonly generatedAt: Date;
}

/**
 * Records clips; the first clip of a sample stands, a second one changes nothing. A sample that had failed to be made (its
 * dead letter was replayed) is taken up again.
 */
export async function recordGenerated(ledger: Ledger, clips: readonly GeneratedClip[]): Promise<void> {
  // A sample that comes twice in a batch counts once: with which of the two rows an update joins is not defined.
  const first = [...new Map(clips.toReversed().map((clip) => [clip.sampleId, clip])).values()];
  const column = <Key extends keyof GeneratedClip>(key: Key): GeneratedClip[Key][] =>
    first.map((clip) => clip[key]);
  await sql`update samples
    set state = 'generated', video = given.video, video_sha256 = given.sha256, preview = given.preview,
      latents = given.latents, generated_at = given.generated_at, error_stage = null, error_code = null, error_reason = null, error_message = null
    from unnest(${column('sampleId')}::text[], ${column('video')}::text[], ${column('videoSha256')}::text[],
        ${column('preview')}::text[], ${column('latents')}::text[],
        ${first.map(({ generatedAt }) => generatedAt.toISOString())}::timestamptz[])
      as given (id, video, sha256, preview, latents, generated_at)
    where samples.id = given.id
      and (samples.state = 'planned' or (samples.state = 'failed' and samples.error_stage = 'generate'))`.execute(
    ledger,
  );
}

/** A sample's outcome for one reward: a finite value, or an error. */
export interface RewardResult {
  readonly reward: string;
  readonly version: string;
  readonly weightsHash: string;
  readonly outcome:
    | {
        readonly value: number;
        readonly reason: string;
        readonly failureMode: string;
        readonly checks: Readonly<Record<string, boolean>>;
        readonly details: Readonly<Record<string, number>>;
        /** Of a judge's rubric; empty for other rewards. */
        readonly rubricHash?: string;
      }
    | { readonly error: SampleError };
}

/** Why a sample has no clip, or no score. */
export interface SampleError {
  readonly code: string;
  readonly reason: string;
  readonly message: string;
}

/** What the rewards said of a clip. */
export interface ScoredClip {
  readonly sampleId: string;
  readonly results: readonly RewardResult[];
  /** The rewards that the sample needs before it counts as scored. */
  readonly required: readonly string[];
  /** The reward whose value is the verdict. */
  readonly verdictReward: string;
  readonly traceId: string;
  readonly scoredAt: Date;
}

/**
 * Records scores; the first outcome of a sample and reward stands. A sample is scored when all its required rewards have a
 * value, and failed as soon as one of them has an error.
 */
export async function recordScored(database: Kysely<Tables>, clips: readonly ScoredClip[]): Promise<void> {
  await database.transaction().execute(async (transaction) => {
    const rows = clips.flatMap((clip) => clip.results.map((result) => scoreRow(clip, result)));
    for await (const batch of chunks(rows, insertBatch)) {
      const added = await transaction
        .insertInto('scores')
        .values(batch)
        .onConflict((conflict) => conflict.doNothing())
        .returning([
          'sample_id',
          'reward',
          'error_code',
          'error_reason',
          'error_message',
          'trace_id',
          'scored_at',
        ])
        .execute();
      await insertErrors(
        transaction,
        added.flatMap((row) => {
          const { sample_id: sampleId, reward, error_code: code, error_reason: reason } = row;
          if (code === null) return [];
          const error = { code, reason: reason ?? '', message: row.error_message ?? '' };
          const { trace_id: traceId, scored_at: occurredAt } = row;
          return [{ sampleId, stage: 'score' as const, reward, error, traceId, occurredAt }];
        }),
      );
    }
    const standing = await standingScores(
      transaction,
      clips.map(({ sampleId }) => sampleId),
    );
    await settleSamples(transaction, clips, standing);
  });
}

type StandingScore = Pick<
  ScoreRow,
  'sample_id' | 'reward' | 'value' | 'error_code' | 'error_reason' | 'error_message'
>;

/** What decides where samples stand, by sample. */
async function standingScores(
  ledger: Ledger,
  sampleIds: readonly string[],
): Promise<ReadonlyMap<string, readonly StandingScore[]>> {
  if (sampleIds.length === 0) return new Map();
  const rows = await ledger
    .selectFrom('scores')
    .select(['sample_id', 'reward', 'value', 'error_code', 'error_reason', 'error_message'])
    .where('sample_id', 'in', sampleIds)
    .orderBy('reward')
    .execute();
  return Map.groupBy(rows, ({ sample_id }) => sample_id);
}

function scoreRow(clip: ScoredClip, result: RewardResult) {
  const base = {
    sample_id: clip.sampleId,
    reward: result.reward,
    version: result.version,
    weights_hash: result.weightsHash,
    rubric_hash: '',
    trace_id: clip.traceId,
    scored_at: clip.scoredAt,
    value: null,
    error_code: null,
    error_reason: null,
    error_message: null,
    reason: '',
    failure_mode: '',
    checks: '{}',
    details: '{}',
  };
  if ('error' in result.outcome) {
    const { code, reason, message } = result.outcome.error;
    return { ...base, error_code: code, error_reason: reason, error_message: message };
  }
  const { value, reason, failureMode, checks, details, rubricHash = '' } = result.outcome;
  return {
    ...base,
    value,
    rubric_hash: rubricHash,
    reason,
    failure_mode: failureMode,
    checks: JSON.stringify(checks),
    details: JSON.stringify(details),
  };
}

/** Moves samples on whose scores have all come, or have an error among them. */
async function settleSamples(
  ledger: Ledger,
  clips: readonly ScoredClip[],
  standing: ReadonlyMap<string, readonly StandingScore[]>,
): Promise<void> {
  const complete: { id: string; accepted: boolean | null; scoredAt: Date }[] = [];
  for (const clip of clips) {
    const scores = (standing.get(clip.sampleId) ?? []).filter(({ reward }) => clip.required.includes(reward));
    const failed = scores.find(({ error_code }) => error_code !== null);
    if (failed !== undefined) await failScoring(ledger, clip, failed);
    else if (scores.length === clip.required.length) {
      const verdict = scores.find(({ reward }) => reward === clip.verdictReward)?.value;
      const accepted = verdict === undefined || verdict === null ? null : verdict >= acceptThreshold;
      complete.push({ id: clip.sampleId, accepted, scoredAt: clip.scoredAt });
    }
  }
  if (complete.length === 0) return;
  await sql`update samples set state = 'scored', accepted = given.accepted, scored_at = given.scored_at
    from unnest(${complete.map(({ id }) => id)}::text[], ${complete.map(({ accepted }) => accepted)}::boolean[],
        ${complete.map(({ scoredAt }) => scoredAt.toISOString())}::timestamptz[])
      as given (id, accepted, scored_at)
    where samples.id = given.id and samples.state = 'generated'`.execute(ledger);
}

async function failScoring(ledger: Ledger, clip: ScoredClip, score: StandingScore): Promise<void> {
  await ledger
    .updateTable('samples')
    .set({
      state: 'failed',
      error_stage: 'score',
      error_code: score.error_code,
      error_reason: score.error_reason,
      error_message: `${score.reward}: ${score.error_message ?? ''}`,
      scored_at: clip.scoredAt,
    })
    .where('id', '=', clip.sampleId)
    .where('state', '=', 'generated')
    .execute();
}

/** Records that a task was given up. A sample that has its clip, or its scores, in spite of it stays as it is. */
export async function recordFailed(
  database: Kysely<Tables>,
  failure: {
    readonly sampleId: string;
    readonly stage: 'generate' | 'score';
    readonly error: SampleError;
    readonly failedAt: Date;
  },
): Promise<void> {
  const { sampleId, stage, error, failedAt } = failure;
  await database.transaction().execute(async (transaction) => {
    const { numUpdatedRows } = await transaction
      .updateTable('samples')
      .set({
        state: 'failed',
        error_stage: stage,
        error_code: error.code,
        error_reason: error.reason,
        error_message: error.message,
      })
      .where('id', '=', sampleId)
      .where('state', '=', stage === 'generate' ? 'planned' : 'generated')
      .executeTakeFirst();
    if (numUpdatedRows === 0n) return;
    const row = { sampleId, stage, reward: '', error, traceId: '', occurredAt: failedAt };
    await insertErrors(transaction, [row]);
  });
}

/** Adds errors to the history, each under the sample's present attempt. */
async function insertErrors(
  ledger: Ledger,
  errors: readonly {
    readonly sampleId: string;
    readonly stage: 'generate' | 'score';
    /** Empty where no single reward is to blame. */
    readonly reward: string;
    readonly error: SampleError;
    readonly traceId: string;
    readonly occurredAt: Date;
  }[],
): Promise<void> {
  for (const { sampleId, stage, reward, error, traceId, occurredAt } of errors) {
    const attempts = stage === 'generate' ? 'generate_attempts' : 'score_attempts';
    await ledger
      .insertInto('sample_errors')
      .values((expressions) => ({
        sample_id: sampleId,
        stage,
        attempt: expressions.selectFrom('samples').select(attempts).where('id', '=', sampleId),
        reward,
        code: error.code,
        reason: error.reason,
        message: error.message,
        trace_id: traceId,
        occurred_at: occurredAt,
      }))
      .onConflict((conflict) => conflict.doNothing())
      .execute();
  }
}

/** The error that most failed samples of a group ended in, with one of its messages; undefined where none failed. */
export async function commonestError(
  ledger: Ledger,
  runId: string,
  iteration: number,
  group: Group,
): Promise<{ readonly count: number; readonly reason: string; readonly message: string } | undefined> {
  const row = await ledger
    .selectFrom('samples')
    .select(({ fn }) => [
      'error_reason',
      fn.countAll<string>().as('count'),
      fn.min('error_message').as('message'),
    ])
    .where('run_id', '=', runId)
    .where('iteration', '=', iteration)
    .where('grp', '=', group)
    .where('state', '=', 'failed')
    .groupBy('error_reason')
    .orderBy('count', 'desc')
    .orderBy('error_reason')
    .limit(1)
    .executeTakeFirst();
  if (row === undefined) return undefined;
  return { count: Number(row.count), reason: row.error_reason ?? '', message: row.message ?? '' };
}

/**
 * Opens the failed samples of an iteration again: those with a clip are scored again, the others made again. Their errors
 * are cleared with it, and stay in `sample_errors`.
 */
export async function reopenFailed(
  database: Kysely<Tables>,
  runId: string,
  iteration: number,
): Promise<number> {
  return await database.transaction().execute(async (transaction) => {
    const failed = transaction
      .selectFrom('samples')
      .select('id')
      .where('run_id', '=', runId)
      .where('iteration', '=', iteration)
      .where('state', '=', 'failed');
    await transaction
      .deleteFrom('scores')
      .where('error_code', 'is not', null)
      .where('sample_id', 'in', failed)
      .execute();
    const result = await transaction
      .updateTable('samples')
      .set({
        state: sql<'planned' | 'generated'>`case when video is null then 'planned' else 'generated' end`,
        generate_published_at: sql<Date | null>`case when video is null then null else generate_published_at end`,
        score_published_at: null,
        error_stage: null,
        error_code: null,
        error_reason: null,
        error_message: null,
      })
      .where('run_id', '=', runId)
      .where('iteration', '=', iteration)
      .where('state', '=', 'failed')
      .executeTakeFirst();
    return Number(result.numUpdatedRows);
  });
}

/** An earlier sample with the same clip. */
export interface Donor {
  readonly id: string;
  readonly clipKey: string;
  readonly video: string;
  readonly videoSha256: string;
  readonly preview: string | null;
  readonly latents: string | null;
  readonly traceparent: string | null;
}

/** For each clip key, the oldest sample that has the clip; one with latents where there is one. */
export async function findDonors(ledger: Ledger, clipKeys: readonly string[]): Promise<Map<string, Donor>> {
  const donors = new Map<string, Donor>();
  for await (const batch of chunks(clipKeys, idBatch)) {
    const rows = await ledger
      .selectFrom('samples')
      .select(['id', 'clip_key', 'video', 'video_sha256', 'preview', 'latents', 'traceparent'])
      .distinctOn('clip_key')
      .where('clip_key', 'in', batch)
      .where('video', 'is not', null)
      .orderBy('clip_key')
      .orderBy(sql`latents is null`)
      .orderBy('created_at')
      .orderBy('id')
      .execute();
    for (const row of rows) {
      if (row.video === null || row.video_sha256 === null) continue;
      donors.set(row.clip_key, {
        id: row.id,
        clipKey: row.clip_key,
        video: row.video,
        videoSha256: row.video_sha256,
        preview: row.preview,
        latents: row.latents,
        traceparent: row.traceparent,
      });
    }
  }
  return donors;
}

/** Gives samples the clip of an earlier one. */
export async function takeOverClips(
  ledger: Ledger,
  pairs: readonly { readonly sampleId: string; readonly donor: Donor }[],
  now: Date,
): Promise<void> {
  const column = <Key extends keyof Donor>(key: Key): Donor[Key][] => pairs.map(({ donor }) => donor[key]);
  await sql`update samples
    set state = 'generated', video = given.video, video_sha256 = given.sha256, preview = given.preview,
      latents = given.latents, reused_from = given.donor, traceparent = given.traceparent, generated_at = ${now.toISOString()}::timestamptz
    from unnest(${pairs.map(({ sampleId }) => sampleId)}::text[], ${column('id')}::text[], ${column('video')}::text[],
        ${column('videoSha256')}::text[], ${column('preview')}::text[], ${column('latents')}::text[],
        ${column('traceparent')}::text[])
      as given (id, donor, video, sha256, preview, latents, traceparent)
    where samples.id = given.id and samples.state = 'planned'`.execute(ledger);
}

/** What samples of a list must be like; what is undefined does not matter. */
export interface SampleFilter {
  readonly iteration?: number | undefined;
  readonly groups?: readonly Group[] | undefined;
  readonly category?: CategoryId | undefined;
  readonly modelVersion?: string | undefined;
  /** Words that the prompt's text or id holds, whatever their case. */
  readonly prompt?: string | undefined;
  readonly verdict?: 'accepted' | 'rejected' | 'error' | 'pending' | undefined;
  /** Bounds of a reward's value. */
  readonly score?:
    | {
        readonly reward: string;
        readonly minimum?: number | undefined;
        readonly maximum?: number | undefined;
      }
    | undefined;
  /** One of the two rewards accepts and the other rejects. */
  readonly disagreeing?: readonly [string, string] | undefined;
}

/** One page of a run's samples in the order of iteration, group and plan. */
export async function listSamples(
  ledger: Ledger,
  options: SampleFilter & {
    readonly runId: string;
    readonly limit: number;
    readonly skip?: number;
    readonly after?: SamplePosition | undefined;
  },
): Promise<SampleRow[]> {
  let query = filtered(ledger, options)
    .selectAll()
    .orderBy('iteration')
    .orderBy('grp')
    .orderBy('position')
    .orderBy('id')
    .limit(options.limit)
    .offset(options.skip ?? 0);
  if (options.after !== undefined) {
    const { iteration, group, position, id } = options.after;
    query = query.where(
      sql<boolean>`(iteration, grp, position, id) > (${iteration}, ${group}, ${position}, ${id})`,
    );
  }
  return await query.execute();
}

/** How many samples of a run a filter leaves. */
export async function countFiltered(
  ledger: Ledger,
  options: SampleFilter & { readonly runId: string },
): Promise<number> {
  const { count } = await filtered(ledger, options)
    .select(({ fn }) => fn.countAll<string | number>().as('count'))
    .executeTakeFirstOrThrow();
  return Number(count);
}

function filtered(ledger: Ledger, options: SampleFilter & { readonly runId: string }) {
  const { iteration, groups: wanted, category, modelVersion, prompt, verdict, score, disagreeing } = options;
  let query = ledger.selectFrom('samples').where('run_id', '=', options.runId);
  if (iteration !== undefined) query = query.where('iteration', '=', iteration);
  if (wanted !== undefined) query = query.where('grp', 'in', wanted);
  if (category !== undefined) query = query.where('category', '=', category);
  if (modelVersion !== undefined) query = query.where('model_version', '=', modelVersion);
  if (prompt !== undefined) {
    // What people type is words, not a pattern.
    const pattern = `%${prompt.replaceAll(/[\\%_]/g, '\\$&')}%`;
    query = query.where(sql<boolean>`(prompt_text ilike ${pattern} or prompt_id ilike ${pattern})`);
  }
  if (verdict === 'accepted') query = query.where('accepted', 'is', true);
  if (verdict === 'rejected') query = query.where('accepted', 'is', false);
  if (verdict === 'error') query = query.where('state', '=', 'failed');
  if (verdict === 'pending') query = query.where('state', 'in', ['planned', 'generated']);
  if (score !== undefined) {
    query = query.where((expression) => {
      let found = expression
        .selectFrom('scores')
        .select('reward')
        .whereRef('sample_id', '=', 'samples.id')
        .where('reward', '=', score.reward)
        .where('value', 'is not', null);
      if (score.minimum !== undefined) found = found.where('value', '>=', score.minimum);
      if (score.maximum !== undefined) found = found.where('value', '<=', score.maximum);
      return expression.exists(found);
    });
  }
  if (disagreeing !== undefined) {
    const [one, other] = disagreeing;
    query = query.where(
      sql<boolean>`(select count(distinct value >= ${acceptThreshold}) from scores
        where sample_id = samples.id and reward in (${one}, ${other}) and value is not null) = 2`,
    );
  }
  return query;
}

/** The other model's sample of the same prompt and noise. */
export async function findPartner(ledger: Ledger, sample: SampleRow): Promise<SampleRow | undefined> {
  if (sample.grp === 'train') return undefined;
  return await ledger
    .selectFrom('samples')
    .selectAll()
    .where('run_id', '=', sample.run_id)
    .where('iteration', '=', sample.iteration)
    .where('grp', '=', sample.grp === 'before' ? 'after' : 'before')
    .where('prompt_id', '=', sample.prompt_id)
    .where('sample_index', '=', sample.sample_index)
    .executeTakeFirst();
}

/** Where a sample stands in a run. */
export interface SamplePosition {
  readonly iteration: number;
  readonly group: string;
  readonly position: number;
  readonly id: string;
}

/** All samples of a group, sorted by id. */
export async function samplesOfGroup(
  ledger: Ledger,
  runId: string,
  iteration: number,
  group: Group,
): Promise<SampleRow[]> {
  const rows: SampleRow[] = [];
  for (let last: SampleRow | undefined; ; last = rows.at(-1)) {
    // As in `chunks`.
    if (last !== undefined) await setImmediate();
    let query = ledger
      .selectFrom('samples')
      .selectAll()
      .where('run_id', '=', runId)
      .where('iteration', '=', iteration)
      .where('grp', '=', group);
    if (last !== undefined) {
      const { position, id } = last;
      query = query.where((where) =>
        where.eb(where.refTuple('position', 'id'), '>', where.tuple(position, id)),
      );
    }
    const page = await query.orderBy('position').orderBy('id').limit(readBatch).execute();
    rows.push(...page);
    if (page.length < readBatch) return rows.toSorted((a, b) => (a.id < b.id ? -1 : 1));
  }
}

export async function findSamples(ledger: Ledger, ids: readonly string[]): Promise<SampleRow[]> {
  const rows: SampleRow[] = [];
  for await (const batch of chunks(ids, idBatch)) {
    rows.push(...(await ledger.selectFrom('samples').selectAll().where('id', 'in', batch).execute()));
  }
  return rows;
}

/** What tells whose a result is. */
const ownerColumns = ['id', 'run_id', 'grp', 'category', 'video_sha256'] as const;

/** A sample as far as its results are concerned. */
export type SampleOwner = Pick<SampleRow, (typeof ownerColumns)[number]>;

/** To whom samples belong; those that the ledger does not hold are left out. */
export async function findOwners(ledger: Ledger, ids: readonly string[]): Promise<SampleOwner[]> {
  const rows: SampleOwner[] = [];
  for await (const batch of chunks(ids, idBatch)) {
    rows.push(
      ...(await ledger.selectFrom('samples').select(ownerColumns).where('id', 'in', batch).execute()),
    );
  }
  return rows;
}

export type ScoreRow = Selectable<Tables['scores']>;

/** The scores of samples, sorted by reward. */
export async function scoresOf(
  ledger: Ledger,
  sampleIds: readonly string[],
): Promise<Map<string, ScoreRow[]>> {
  const scores = new Map<string, ScoreRow[]>();
  for await (const batch of chunks(sampleIds, idBatch)) {
    const rows = await ledger
      .selectFrom('scores')
      .selectAll()
      .where('sample_id', 'in', batch)
      .orderBy('reward')
      .execute();
    for (const row of rows) {
      const list = scores.get(row.sample_id) ?? [];
      list.push(row);
      scores.set(row.sample_id, list);
    }
  }
  return scores;
}

/**
 * Items in groups of this size at most. The embedded database answers within the turn of the event loop in which it was
 * asked: without a pause between two groups, health checks and heartbeats would wait until the last one is through.
 */
async function* chunks<Item>(items: Iterable<Item>, size: number): AsyncGenerator<Item[]> {
  let chunk: Item[] = [];
  for (const item of items) {
    if (chunk.length === size) {
      yield chunk;
      await setImmediate();
      chunk = [];
    }
    chunk.push(item);
  }
  if (chunk.length > 0) yield chunk;
}
