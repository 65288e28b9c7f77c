import { streamNames, subjects } from '@plumb/kit/bus';
import type { Bus, Consumption, Delivery } from '@plumb/kit/bus';
import { describeError, notFound, PlumbError } from '@plumb/kit/errors';
import {
  linkTo,
  currentCarrier,
  logger,
  recordError,
  startSpan,
  tracer,
  withSpan,
} from '@plumb/kit/telemetry';
import { timestampDate } from '@bufbuild/protobuf/wkt';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { RewardOutcome } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import {
  SampleFailedSchema,
  SampleGeneratedSchema,
  SampleScoredSchema,
} from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import type { SampleGenerated, SampleScored } from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import type { Kysely } from 'kysely';
import { rewardsOf } from '../domain/sample-plan.ts';
import { loopMetrics } from '../metrics.ts';
import { ledgerError } from './ledger/database-error.ts';
import { findRun } from './ledger/runs.ts';
import { findOwners, recordFailed, recordGenerated, recordScored } from './ledger/samples.ts';
import type { GeneratedClip, RewardResult, SampleOwner, ScoredClip } from './ledger/samples.ts';
import type { Tables } from './ledger/tables.ts';
import { artifactToText, errorColumns, specFromText, videoToText } from './messages.ts';

const log = logger('plumb.loop.events');
const spans = tracer('plumb.loop');

/** Results of one transaction. */
const maxBatch = 256;
/** A result waits this long for others to share its transaction, in milliseconds. */
const maxWaitMs = 100;
/** Results that a killed loop held are delivered to the next one after this long, in milliseconds. */
const ackWaitMs = 5_000;
/** A ledger that is away for a day loses no result: at the longest wait between deliveries that is 2,880 of them. */
const maxDeliveries = 10_000;

/** What became of one item of a batch: nothing to say, or why it cannot be processed. */
type ItemOutcome = undefined | { readonly error: unknown };

/**
 * Writes the results of generators and rewards into the ledger. A result that comes twice changes nothing; a result for a
 * sample that the ledger does not hold goes to the dead letters.
 */
export async function consumeSampleEvents(
  bus: Bus,
  database: Kysely<Tables>,
  options: {
    readonly changed: (runIds: ReadonlySet<string>) => void;
    /** Hears of clips that are in the ledger now, before `changed`. */
    readonly generated: (sampleIds: readonly string[]) => void;
    readonly signal: AbortSignal;
  },
): Promise<Consumption[]> {
  const specs = specCache(database);
  const base = {
    stream: streamNames.events,
    maxInFlight: 2 * maxBatch,
    maxBatch,
    maxWaitMs,
    maxDeliveries,
    ackWaitMs,
  };
  const { signal } = options;

  const generated = await bus.consumeBatches(
    {
      ...base,
      durable: 'loop-generated',
      subject: subjects.sampleGenerated,
      schema: SampleGeneratedSchema,
      signal,
    },
    async (items) =>
      await recordBatch({
        database,
        changed: options.changed,
        items,
        prepare: (message, row) => {
          warnOfOtherBytes(message, row);
          return generatedClip(message);
        },
        record: async (clips) => {
          await recordGenerated(database, clips);
          loopMetrics.samples.add(clips.length, { 'plumb.sample.event': 'generated' });
          options.generated(clips.map(({ sampleId }) => sampleId));
        },
      }),
  );
  const scored = await bus.consumeBatches(
    { ...base, durable: 'loop-scored', subject: subjects.sampleScored, schema: SampleScoredSchema, signal },
    async (items) =>
      await recordBatch({
        database,
        changed: options.changed,
        items,
        prepare: async (message, row) => scoredClip(message, row, await specs(row.run_id)),
        record: async (clips) => {
          await recordScored(database, clips);
          for (const clip of clips) countScored(clip);
        },
      }),
  );
  const failed = await bus.consumeBatches(
    { ...base, durable: 'loop-failed', subject: subjects.sampleFailed, schema: SampleFailedSchema, signal },
    async (items) =>
      await recordBatch({
        database,
        changed: options.changed,
        items,
        prepare: ({ sampleId, stage, status }) => ({
          sampleId,
          stage: stage === 'score' ? ('score' as const) : ('generate' as const),
          error: errorColumns(status),
        }),
        record: async (failures) => {
          const failedAt = new Date();
          for (const failure of failures) await recordFailed(database, { ...failure, failedAt });
          loopMetrics.samples.add(failures.length, { 'plumb.sample.event': 'failed' });
        },
      }),
  );
  return [generated, scored, failed];
}

interface BatchOptions<Message, Entry> {
  readonly database: Kysely<Tables>;
  readonly changed: (runIds: ReadonlySet<string>) => void;
  readonly items: readonly { readonly message: Message; readonly delivery: Delivery }[];
  /** What is to be written of one message; throws what is wrong with that message, which then is a dead letter. */
  readonly prepare: (message: Message, row: SampleOwner) => Entry | Promise<Entry>;
  readonly record: (entries: readonly Entry[]) => Promise<void>;
}

async function recordBatch<Message extends { readonly sampleId: string }, Entry>(
  options: BatchOptions<Message, Entry>,
): Promise<ItemOutcome[]> {
  const { database, items } = options;
  const messages = items.map(({ message }) => message);
  const attributes = { 'messaging.batch.message_count': messages.length };
  const startTime = new Date();
  return await withSpan(spans, 'ledger batch', { attributes }, async () => {
    // The part that each sample had in it, in the sample's own trace.
    const batch = linkTo(currentCarrier());
    const end = (thrown?: unknown): void => {
      for (const { message, delivery } of items) {
        const { span } = startSpan(spans, 'ledger', {
          parent: delivery.context,
          startTime,
          links: [batch],
          attributes: { 'plumb.sample.id': message.sampleId },
        });
        if (thrown !== undefined) recordError(span, thrown);
        span.end();
      }
    };
    try {
      const rows = await findOwners(database, [...new Set(messages.map(({ sampleId }) => sampleId))]);
      const byId = new Map(rows.map((row) => [row.id, row]));
      const entries: Entry[] = [];
      const outcomes: ItemOutcome[] = [];
      for (const message of messages) outcomes.push(await prepared(options, message, byId, entries));
      await options.record(entries);
      end();
      options.changed(new Set(rows.map((row) => row.run_id)));
      return outcomes;
    } catch (thrown) {
      end(thrown);
      const error = ledgerError(thrown);
      log.error({ error: describeError(thrown) }, 'results could not be written down; they will come again');
      // A full disk, or a defect, must not turn results into dead letters: they wait until the ledger takes them.
      throw error.retryable
        ? error
        : new PlumbError({
            code: 'UNAVAILABLE',
            reason: error.reason,
            message: error.message,
            cause: thrown,
          });
    }
  });
}

async function prepared<Message extends { readonly sampleId: string }, Entry>(
  options: BatchOptions<Message, Entry>,
  message: Message,
  rows: ReadonlyMap<string, SampleOwner>,
  entries: Entry[],
): Promise<ItemOutcome> {
  const row = rows.get(message.sampleId);
  if (row === undefined) {
    return { error: notFound('sample', message.sampleId, { fix: 'it belongs to another ledger' }) };
  }
  try {
    entries.push(await options.prepare(message, row));
    return undefined;
  } catch (thrown) {
    if (thrown instanceof PlumbError && thrown.code === 'INVALID_ARGUMENT') return { error: thrown };
    throw thrown;
  }
}

function generatedClip(message: SampleGenerated): GeneratedClip {
  const { video } = message;
  if (video?.source.case !== 'uri' || video.sha256 === '') {
    throw new PlumbError({
      code: 'INVALID_ARGUMENT',
      reason: 'MISSING_FIELD',
      message: `sample.generated of '${message.sampleId}' has no video by reference; give uri and sha256`,
    });
  }
  return {
    sampleId: message.sampleId,
    video: videoToText(video),
    videoSha256: video.sha256,
    preview: message.preview === undefined ? null : artifactToText(message.preview),
    latents: message.latents === undefined ? null : artifactToText(message.latents),
    generatedAt: dateOf(message.generateTime),
  };
}

function warnOfOtherBytes(message: SampleGenerated, row: SampleOwner): void {
  if (row.video_sha256 === null || row.video_sha256 === message.video?.sha256) return;
  log.warn(
    { sampleId: row.id, first: row.video_sha256, second: message.video?.sha256 },
    'a sample was made twice with different bytes; the first clip stands',
  );
}

function scoredClip(
  message: SampleScored,
  row: SampleOwner,
  spec: RunSpec,
): ScoredClip & { readonly category: string } {
  return {
    sampleId: message.sampleId,
    results: message.outcomes.map(rewardResult),
    required: rewardsOf(spec, row.grp),
    verdictReward: spec.evaluation?.reward ?? '',
    traceId: message.traceId,
    scoredAt: dateOf(message.scoreTime),
    category: row.category,
  };
}

function countScored({ results, verdictReward, category }: ReturnType<typeof scoredClip>): void {
  loopMetrics.samples.add(1, { 'plumb.sample.event': 'scored' });
  for (const { reward, outcome } of results) {
    if (reward !== verdictReward || 'error' in outcome) continue;
    loopMetrics.verdicts.add(1, { 'plumb.category': category, 'plumb.accepted': outcome.value >= 0.5 });
  }
}

function rewardResult(outcome: RewardOutcome): RewardResult {
  const base = { reward: outcome.reward, version: outcome.version, weightsHash: outcome.weightsHash };
  if (outcome.outcome.case !== 'score') {
    return { ...base, outcome: { error: errorColumns(outcome.outcome.value?.status) } };
  }
  const { value, reason, failureMode, checks, details, rubricHash } = outcome.outcome.value;
  if (!Number.isFinite(value)) {
    const message = `the reward gave ${value}, which is no number to train on`;
    return { ...base, outcome: { error: { code: 'DATA_LOSS', reason: 'NUMERICS_NOT_FINITE', message } } };
  }
  const finite = Object.entries(details).filter(([, detail]) => Number.isFinite(detail));
  return {
    ...base,
    outcome: { value, reason, failureMode, checks, details: Object.fromEntries(finite), rubricHash },
  };
}

function dateOf(time: Timestamp | undefined): Date {
  return time === undefined ? new Date() : timestampDate(time);
}

/** Specs never change: one read a run. The least recently added goes first. */
function specCache(database: Kysely<Tables>): (runId: string) => Promise<RunSpec> {
  const specs = new Map<string, RunSpec>();
  const mostSpecs = 64;
  return async (runId) => {
    const known = specs.get(runId);
    if (known !== undefined) return known;
    const row = await findRun(database, runId);
    if (row === undefined) throw notFound('run', runId, { reason: 'RUN_NOT_FOUND' });
    const spec = specFromText(row.spec);
    if (specs.size >= mostSpecs) specs.delete([...specs.keys()][0] ?? '');
    specs.set(runId, spec);
    return spec;
  };
}
