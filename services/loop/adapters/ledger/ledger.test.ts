import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { PGlite } from '@electric-sql/pglite';
import { PlumbError } from '@plumb/kit/errors';
import fc from 'fast-check';
import { Kysely, PGliteDialect, PostgresDialect, sql } from 'kysely';
import { Migrator } from 'kysely/migration';
import pg from 'pg';
import { runIdOf } from '../../domain/identity.ts';
import { plannedSamples } from '../../domain/sample-plan.ts';
import { postgresMissing, startPostgres } from '../../testing/postgres-server.ts';
import { modelFixture, specFixture } from '../../testing/run-spec-fixture.ts';
import { modelToText, specToText } from '../messages.ts';
import { migrations, openDatabase } from './database.ts';
import { exportRows, exportTables } from './export.ts';
import { insertDecision, insertEvaluation, insertJob, insertProgress, listProgress } from './iterations.ts';
import { insertLabel, listLabels } from './labels.ts';
import { findOverrideByKey, insertOverride, latestOverride } from './overrides.ts';
import { advanceIteration, findRun, finishRun, insertRun, listRuns, moveRun } from './runs.ts';
import {
  countSamples,
  findDonors,
  findSamples,
  insertSamples,
  listSamples,
  markPublished,
  nextToPublish,
  recordFailed,
  recordGenerated,
  recordScored,
  reopenFailed,
  samplesOfGroup,
  scoresOf,
  takeBackPublished,
  takeOverClips,
} from './samples.ts';
import type { RewardResult } from './samples.ts';
import type { Tables } from './tables.ts';

const now = new Date('2026-01-02T03:04:05.678Z');
const model = modelFixture();
const spec = specFixture();

type Database = Kysely<Tables>;

async function newRun(database: Database, key: string) {
  return await insertRun(database, {
    id: runIdOf(key),
    idempotencyKey: key,
    name: 'test',
    spec: specToText(spec),
    model: modelToText(model),
    traceId: '',
    createdAt: now,
  });
}

async function newSamples(database: Database, key: string): Promise<string[]> {
  const { id: runId } = await newRun(database, key);
  const samples = [...plannedSamples({ spec, runId, iteration: 1, group: 'train', model })];
  await insertSamples(database, samples, now);
  return samples.map(({ id }) => id);
}

const clip = (sampleId: string, hash = 'c'.repeat(64)) => ({
  sampleId,
  video: `{"uri":"artifact:sha256/${hash}"}`,
  videoSha256: hash,
  preview: null,
  latents: null,
  generatedAt: now,
});

const value = (score: number): RewardResult => ({
  reward: 'aif',
  version: '1',
  weightsHash: 'w',
  outcome: {
    value: score,
    reason: 'moves',
    failureMode: '',
    checks: { picture: true },
    details: { share: 0.5 },
  },
});

const failure: RewardResult = {
  reward: 'aif',
  version: '1',
  weightsHash: 'w',
  outcome: { error: { code: 'UNAVAILABLE', reason: 'JUDGE_UNAVAILABLE', message: 'no answer' } },
};

const scored = (sampleId: string, ...results: RewardResult[]) => ({
  sampleId,
  results,
  required: ['aif'],
  verdictReward: 'aif',
  traceId: '0'.repeat(32),
  scoredAt: now,
});

function ledgerTests(open: () => Database): void {
  test('a run is made once for a key', async () => {
    const database = open();
    const first = await newRun(database, 'once');
    const second = await newRun(database, 'once');
    assert.deepEqual(second, first);
    assert.deepEqual(first.created_at, now);
  });

  test('samples are inserted once, counted, and published in the order of the plan', async () => {
    const database = open();
    const ids = await newSamples(database, 'publish');
    const runId = runIdOf('publish');
    await insertSamples(database, plannedSamples({ spec, runId, iteration: 1, group: 'train', model }), now);
    const first = await nextToPublish(database, { runId, iteration: 1, queue: 'generate', limit: 5 });
    assert.deepEqual(
      first.map(({ id }) => id),
      ids.slice(0, 5),
    );
    await markPublished(
      database,
      'generate',
      first.map(({ id }) => ({ id })),
      now,
    );
    const [counts] = await countSamples(database, runId);
    assert.equal(counts?.rows, 12);
    assert.equal(counts.toGenerate, 7);
    assert.equal(counts.generating, 5);
    assert.deepEqual(counts.firstPublishedAt, now);
    const rest = await nextToPublish(database, { runId, iteration: 1, queue: 'generate', limit: 50 });
    assert.deepEqual(
      rest.map(({ id }) => id),
      ids.slice(5),
    );
    const taken = await takeBackPublished(database, { runId, iteration: 1, queue: 'generate', before: now });
    assert.equal(taken, 5);
    const [again] = await nextToPublish(database, { runId, iteration: 1, queue: 'generate', limit: 1 });
    assert.equal(again?.id, ids[0]);
    assert.equal(again?.generate_attempts, 1);
  });

  test('the first clip and the first score of a sample stand', async () => {
    const database = open();
    const [id = ''] = await newSamples(database, 'stand');
    await recordGenerated(database, [clip(id)]);
    await recordGenerated(database, [clip(id, 'd'.repeat(64))]);
    await recordScored(database, [scored(id, value(1))]);
    await recordScored(database, [scored(id, value(0))]);
    await recordFailed(database, {
      sampleId: id,
      stage: 'score',
      error: { code: 'INTERNAL', reason: '', message: 'late' },
      failedAt: now,
    });
    const [row] = await findSamples(database, [id]);
    assert.equal(row?.state, 'scored');
    assert.equal(row.video_sha256, 'c'.repeat(64));
    assert.equal(row.accepted, true);
    const scores = (await scoresOf(database, [id])).get(id);
    assert.equal(scores?.length, 1);
    assert.equal(scores[0]?.value, 1);
  });

  test('an error is never a value: the sample fails, and is tried again when it is opened again', async () => {
    const database = open();
    const [first = '', second = ''] = await newSamples(database, 'errors');
    const runId = runIdOf('errors');
    await recordGenerated(database, [clip(first)]);
    await recordScored(database, [scored(first, failure)]);
    await recordFailed(database, {
      sampleId: second,
      stage: 'generate',
      error: { code: 'DATA_LOSS', reason: 'NUMERICS_NOT_FINITE', message: 'NaN' },
      failedAt: now,
    });
    const rows = new Map((await findSamples(database, [first, second])).map((row) => [row.id, row]));
    assert.equal(rows.get(first)?.state, 'failed');
    assert.equal(rows.get(first)?.error_stage, 'score');
    assert.equal(rows.get(first)?.accepted, null);
    assert.equal(rows.get(second)?.error_reason, 'NUMERICS_NOT_FINITE');
    assert.equal((await scoresOf(database, [first])).get(first)?.[0]?.value, null);

    assert.equal(await reopenFailed(database, runId, 1), 2);
    const reopened = new Map((await findSamples(database, [first, second])).map((row) => [row.id, row]));
    assert.equal(reopened.get(first)?.state, 'generated');
    assert.equal(reopened.get(second)?.state, 'planned');
    assert.equal((await scoresOf(database, [first])).get(first), undefined);
    await recordScored(database, [scored(first, value(0))]);
    const [row] = await findSamples(database, [first]);
    assert.equal(row?.state, 'scored');
    assert.equal(row.accepted, false);
  });

  test('every error of every attempt stays in the history, once', async () => {
    const database = open();
    const [id = ''] = await newSamples(database, 'history');
    const runId = runIdOf('history');
    const error = { code: 'DATA_LOSS', reason: 'NUMERICS_NOT_FINITE', message: 'NaN' };
    for (const attempt of [1, 2]) {
      await markPublished(database, 'generate', [{ id }], now);
      const failedAt = new Date(now.getTime() + attempt);
      await recordFailed(database, { sampleId: id, stage: 'generate', error, failedAt });
      await recordFailed(database, { sampleId: id, stage: 'generate', error, failedAt });
      await reopenFailed(database, runId, 1);
    }
    await recordGenerated(database, [clip(id)]);
    await markPublished(database, 'score', [{ id }], now);
    await recordScored(database, [scored(id, failure)]);
    // The same message again.
    await recordScored(database, [scored(id, failure)]);
    await reopenFailed(database, runId, 1);
    await recordScored(database, [scored(id, value(1))]);

    const table = exportTables['sample_errors'];
    assert.ok(table !== undefined);
    const columns = Object.keys(table.columns);
    const rows: unknown[][] = [];
    for await (const some of exportRows(database, table, runId)) rows.push(...some);
    const shown = ['stage', 'attempt', 'reward', 'reason'].map((name) => columns.indexOf(name));
    assert.deepEqual(
      rows.map((row) => shown.map((place) => row[place])),
      [
        ['generate', 1, '', 'NUMERICS_NOT_FINITE'],
        ['generate', 2, '', 'NUMERICS_NOT_FINITE'],
        ['score', 1, 'aif', 'JUDGE_UNAVAILABLE'],
      ],
    );
  });

  test('every state of a run stays in the history, with the reason of each pause', async () => {
    const database = open();
    const { id } = await newRun(database, 'state history');
    const move = async (from: 'running' | 'paused', to: 'running' | 'paused', error?: string) =>
      await moveRun(database, { id, from: [from], to, error, now });
    assert.equal(await move('running', 'paused', '{"message":"the disk is full"}'), true);
    assert.equal(await move('running', 'paused', '{"message":"too late"}'), false);
    assert.equal(await move('paused', 'running'), true);
    assert.equal(await move('running', 'paused', '{"message":"the budget is used up"}'), true);
    await newRun(database, 'state history');
    const rows = await database
      .selectFrom('run_states')
      .select(['state', 'error'])
      .where('run_id', '=', id)
      .orderBy('position')
      .execute();
    assert.deepEqual(
      rows.map(({ state, error }) => [state, error]),
      [
        ['running', null],
        ['paused', '{"message":"the disk is full"}'],
        ['running', null],
        ['paused', '{"message":"the budget is used up"}'],
      ],
    );
  });

  test('a failed sample whose dead letter was replayed takes its clip', async () => {
    const database = open();
    const [id = ''] = await newSamples(database, 'replay');
    await recordFailed(database, {
      sampleId: id,
      stage: 'generate',
      error: { code: 'INTERNAL', reason: '', message: 'out of memory' },
      failedAt: now,
    });
    await recordGenerated(database, [clip(id)]);
    const [row] = await findSamples(database, [id]);
    assert.equal(row?.state, 'generated');
    assert.equal(row.error_code, null);
  });

  test('the schema refuses what must never be', async () => {
    const database = open();
    const [id = ''] = await newSamples(database, 'constraints');
    const bad = [
      sql`insert into scores (sample_id, reward, version, weights_hash, scored_at) values (${id}, 'x', '', '', ${now})`,
      sql`insert into scores (sample_id, reward, version, weights_hash, value, error_code, scored_at)
          values (${id}, 'x', '', '', 0, 'INTERNAL', ${now})`,
      sql`insert into scores (sample_id, reward, version, weights_hash, value, scored_at)
          values (${id}, 'x', '', '', 'NaN', ${now})`,
      sql`insert into scores (sample_id, reward, version, weights_hash, value, scored_at)
          values (${id}, 'x', '', '', 'Infinity', ${now})`,
      sql`update samples set state = 'scored' where id = ${id}`,
      sql`update samples set state = 'failed' where id = ${id}`,
      sql`update samples set seed = '-1' where id = ${id}`,
      sql`update runs set state = 'failed', ended_at = ${now} where id = ${runIdOf('constraints')}`,
    ];
    for (const statement of bad) {
      await assert.rejects(statement.execute(database), { code: '23514' });
    }
  });

  test('a clip is taken over once, by samples that have none', async () => {
    const database = open();
    const donors = await newSamples(database, 'donor');
    const takers = await newSamples(database, 'taker');
    const [donorId = ''] = donors;
    const [takerId = ''] = takers;
    await recordGenerated(database, [{ ...clip(donorId, 'e'.repeat(64)), latents: '{"uri":"l"}' }]);
    const [taker] = await findSamples(database, [takerId]);
    const found = await findDonors(database, [taker?.clip_key ?? '', 'nobody']);
    assert.equal(found.size, 1);
    const donor = found.get(taker?.clip_key ?? '');
    assert.ok(donor !== undefined);
    await takeOverClips(database, [{ sampleId: takerId, donor }], now);
    const [row] = await findSamples(database, [takerId]);
    assert.equal(row?.state, 'generated');
    assert.equal(row.reused_from, donor.id);
    assert.equal(row.video_sha256, donor.videoSha256);
    assert.equal(row.latents, '{"uri":"l"}');
  });

  test('runs move between states, iterations advance once, and both are listed page by page', async () => {
    const database = open();
    const { id } = await newRun(database, 'states');
    assert.ok(await moveRun(database, { id, from: ['running'], to: 'paused', error: '{}', now }));
    assert.ok(!(await moveRun(database, { id, from: ['running'], to: 'cancelled', now })));
    assert.ok(await moveRun(database, { id, from: ['paused'], to: 'running', now }));
    await advanceIteration(database, { runId: id, ended: 1, now });
    await advanceIteration(database, { runId: id, ended: 1, now });
    assert.equal((await findRun(database, id))?.iteration, 2);
    await finishRun(database, { runId: id, ended: 2, manifest: '{}', now });
    assert.equal((await findRun(database, id))?.state, 'succeeded');

    const seen: string[] = [];
    let after: { createdAt: Date; id: string } | undefined;
    for (;;) {
      const page = await listRuns(database, { limit: 2, after });
      seen.push(...page.map((row) => row.id));
      const last = page.at(-1);
      if (last === undefined) break;
      after = { createdAt: last.created_at, id: last.id };
    }
    assert.equal(new Set(seen).size, seen.length);
    assert.ok(seen.includes(id));
  });

  test('samples are listed page by page, each once', async () => {
    const database = open();
    const ids = await newSamples(database, 'pages');
    const runId = runIdOf('pages');
    const seen: string[] = [];
    let after: Parameters<typeof listSamples>[1]['after'];
    for (;;) {
      const page = await listSamples(database, { runId, limit: 5, after });
      seen.push(...page.map((row) => row.id));
      const last = page.at(-1);
      if (last === undefined) break;
      after = { iteration: last.iteration, group: last.grp, position: last.position, id: last.id };
    }
    assert.deepEqual(seen, ids);
  });

  test('jobs, curves, evaluations, decisions and labels keep their first record', async () => {
    const database = open();
    const [id = ''] = await newSamples(database, 'records');
    const runId = runIdOf('records');
    const key = { runId, iteration: 1 };
    await insertJob(database, { ...key, id: 'job-records', attempt: 1, job: '{}', traceId: '', now });
    for (const step of [2, 1, 2]) {
      await insertProgress(database, { jobId: 'job-records', step, progress: `{"step":${step}}` });
    }
    assert.deepEqual(await listProgress(database, 'job-records'), ['{"step":1}', '{"step":2}']);
    const evaluation = { ...key, beforeVersion: 'a', afterVersion: 'b', manifest: '{}', traceId: '', now };
    await insertEvaluation(database, { ...evaluation, result: 'first' });
    await insertEvaluation(database, { ...evaluation, result: 'second' });
    await insertDecision(database, { ...key, promoted: true, rules: '[]', traceId: '', now });
    await insertDecision(database, { ...key, promoted: false, rules: '[]', traceId: '', now });
    const decisions = await database
      .selectFrom('decisions')
      .selectAll()
      .where('run_id', '=', runId)
      .execute();
    assert.deepEqual(
      decisions.map(({ promoted }) => promoted),
      [true],
    );
    const label = {
      id: 'label-1',
      idempotencyKey: 'label-key',
      sampleId: id,
      runId,
      rater: 'r1',
      accept: false,
      preferredTo: null,
      failureMode: 'static',
      traceId: '',
      createdAt: now,
    };
    const first = await insertLabel(database, label);
    assert.deepEqual(await insertLabel(database, { ...label, id: 'label-2', accept: true }), first);
    assert.equal((await listLabels(database, { runId, limit: 5 })).length, 1);
  });

  test('an override is made once for a key, the last one holds, and the run goes on from its model', async () => {
    const database = open();
    await newRun(database, 'overrides');
    const key = { runId: runIdOf('overrides'), iteration: 1 };
    await insertEvaluation(database, {
      ...key,
      beforeVersion: 'a',
      afterVersion: 'b',
      manifest: '{}',
      result: '{}',
      traceId: '',
      now,
    });
    await insertDecision(database, { ...key, promoted: false, rules: '[]', traceId: '', now });
    const override = { ...key, reason: 'seen by eye', person: 'ann', traceId: 't', now };
    const first = { ...override, idempotencyKey: 'o1', promoted: true, currentModel: 'candidate' };
    await insertOverride(database, first);
    await insertOverride(database, first);
    assert.equal((await findRun(database, key.runId))?.current_model, 'candidate');
    await insertOverride(database, { ...first, idempotencyKey: 'o2', promoted: false, currentModel: 'base' });
    assert.equal((await latestOverride(database, key))?.position, 2);
    assert.equal((await findRun(database, key.runId))?.current_model, 'base');
    assert.equal((await findOverrideByKey(database, 'o1'))?.promoted, true);
  });

  test('an export has every row once, in the order of its key, over several reads', async () => {
    const database = open();
    const runId = runIdOf('exported');
    await newRun(database, 'exported');
    const wide = specFixture({ train: 40, samplesPerPrompt: 8 });
    const planned = [...plannedSamples({ spec: wide, runId, iteration: 1, group: 'train', model })];
    await insertSamples(database, planned, now);
    for (const [name, table] of Object.entries(exportTables)) {
      const rows: unknown[][] = [];
      for await (const batch of exportRows(database, table, runId)) rows.push(...batch);
      if (name !== 'samples') continue;
      assert.deepEqual(
        rows.map(([id]) => id),
        planned.map(({ id }) => id).toSorted(),
      );
    }
  });

  test('while a large plan is written down and read, everything else goes on', async () => {
    const database = open();
    const runId = runIdOf('large');
    await newRun(database, 'large');
    const wide = specFixture({ train: 250, samplesPerPrompt: 10 });
    const planned = [...plannedSamples({ spec: wide, runId, iteration: 1, group: 'train', model })];
    let turns = 0;
    let over = false;
    const turn = (): void => {
      turns += 1;
      if (!over) setImmediate(turn);
    };
    setImmediate(turn);
    await insertSamples(database, planned, now);
    assert.ok(turns >= 4, `${turns} turns of the event loop between five inserts`);
    turns = 0;
    const rows = await samplesOfGroup(database, runId, 1, 'train');
    over = true;
    assert.ok(turns >= 2, `${turns} turns of the event loop between three reads`);
    assert.deepEqual(
      rows.map(({ id }) => id),
      planned.map(({ id }) => id).toSorted(),
    );
  });

  test('the counts that the database keeps are those that counting gives, whatever happens to samples', async () => {
    const database = open();
    await newRun(database, 'counts');
    const runId = runIdOf('counts');
    const planned = [
      ...plannedSamples({ spec, runId, iteration: 1, group: 'train', model }),
      ...plannedSamples({ spec, runId, iteration: 1, group: 'before', model }),
    ];
    await insertSamples(database, planned, now);
    const ids = planned.map(({ id }) => id);
    const step = fc.record({
      kind: fc.constantFrom('publish', 'generated', 'publish-score', 'scored', 'failed', 'reopen', 'back'),
      from: fc.nat(ids.length - 1),
      count: fc.nat(6),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
        for (const { kind, from, count } of steps) {
          const some = ids.slice(from, from + count);
          const published = some.map((id) => ({ id }));
          if (kind === 'publish') await markPublished(database, 'generate', published, now);
          else if (kind === 'generated')
            await recordGenerated(
              database,
              some.map((id) => clip(id)),
            );
          else if (kind === 'publish-score') await markPublished(database, 'score', published, now);
          else if (kind === 'scored') {
            await recordScored(
              database,
              some.map((sampleId, index) => scored(sampleId, value(index % 2))),
            );
          } else if (kind === 'failed') {
            for (const sampleId of some) {
              const error = { code: 'INTERNAL', reason: 'ENGINE_FAILED', message: 'it fell over' };
              await recordFailed(database, { sampleId, stage: 'generate', error, failedAt: now });
            }
          } else if (kind === 'reopen') await reopenFailed(database, runId, 1);
          else await takeBackPublished(database, { runId, iteration: 1, queue: 'generate', before: now });
        }
        const kept = await countSamples(database, runId);
        const rows = await database.selectFrom('samples').selectAll().where('run_id', '=', runId).execute();
        for (const { group, ...counts } of kept) {
          const own = rows.filter(({ grp }) => grp === group);
          const number = (test: (row: (typeof own)[number]) => boolean): number => own.filter(test).length;
          assert.deepEqual(
            [counts.rows, counts.toGenerate, counts.generating, counts.toScore, counts.scoring],
            [
              own.length,
              number((row) => row.state === 'planned' && row.generate_published_at === null),
              number((row) => row.state === 'planned' && row.generate_published_at !== null),
              number((row) => row.state === 'generated' && row.score_published_at === null),
              number((row) => row.state === 'generated' && row.score_published_at !== null),
            ],
          );
          assert.deepEqual(
            [counts.scored, counts.failed, counts.clips, counts.accepted, counts.reused],
            [
              number((row) => row.state === 'scored'),
              number((row) => row.state === 'failed'),
              number((row) => row.video !== null),
              number((row) => row.accepted === true),
              number((row) => row.reused_from !== null),
            ],
          );
        }
      }),
      { numRuns: 25 },
    );
  });
}

describe('ledger on PGlite', () => {
  let database: Database | undefined;
  before(async () => {
    database = await openDatabase('pglite:memory');
  });
  after(async () => {
    await database?.destroy();
  });
  ledgerTests(() => {
    assert.ok(database !== undefined);
    return database;
  });
});

describe('ledger on PostgreSQL', { skip: postgresMissing ?? false }, () => {
  let server: Awaited<ReturnType<typeof startPostgres>> | undefined;
  let database: Database | undefined;
  before(async () => {
    server = await startPostgres();
    database = await openDatabase(server.url);
  });
  after(async () => {
    await database?.destroy();
    await server?.stop();
  });
  ledgerTests(() => {
    assert.ok(database !== undefined);
    return database;
  });
});

test('a ledger is opened again with everything in it, and its migrations run once', async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'plumb-ledger-'));
  try {
    const url = `pglite:${path.join(folder, 'state', 'ledger')}`;
    const first = await openDatabase(url);
    const ids = await newSamples(first, 'reopen');
    await first.destroy();
    const second = await openDatabase(url);
    assert.equal((await findSamples(second, ids)).length, ids.length);
    await sql`insert into kysely_migration (name, timestamp) values ('0009-from-the-future', '2030')`.execute(
      second,
    );
    await second.destroy();
    await assert.rejects(openDatabase(url), PlumbError);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

/** A ledger of the schema before the last migration, with a paused run, written in SQL as that release wrote it. */
async function olderLedger(database: Kysely<Tables>): Promise<void> {
  const names = Object.keys(migrations);
  const { error } = await new Migrator({
    db: database,
    provider: { getMigrations: () => Promise.resolve(migrations) },
  }).migrateTo(names.at(-2) ?? '');
  assert.equal(error, undefined);
  const failed = `{"code":9,"message":"the judge is away"}`;
  const sample = (id: string, position: number) => sql`
    insert into samples (id, run_id, iteration, grp, position, prompt_id, prompt_text, category, sample_index, seed,
      model_version, model_sha256, clip_key, state, created_at)
    values (${id}, 'run-old', 1, 'train', ${position}, 'p', 'a ball falls', 'FD', ${position}, '7', ${model.version},
      ${'a'.repeat(64)}, ${'b'.repeat(64)}, 'planned', ${now})`;
  const [scoring, generating, fine] = ['1', '2', '3'].map((digit) => digit.repeat(32));
  const statements = [
    sql`insert into runs (id, idempotency_key, name, spec, state, iteration, error, current_model, created_at)
      values ('run-old', 'old', 'older', ${specToText(spec)}, 'paused', 1, ${failed}, ${modelToText(model)}, ${now})`,
    sql`insert into iterations (run_id, iteration, model, started_at) values ('run-old', 1, ${modelToText(model)}, ${now})`,
    ...[scoring, generating, fine].map((id, position) => sample(id ?? '', position)),
    sql`update samples set generate_attempts = 1, generate_published_at = ${now}`,
    sql`update samples set state = 'generated', video = '{}', video_sha256 = ${'c'.repeat(64)}, generated_at = ${now}
      where id in (${scoring}, ${fine})`,
    sql`update samples set score_attempts = 3, score_published_at = ${now} where id in (${scoring}, ${fine})`,
    sql`insert into scores (sample_id, reward, version, weights_hash, error_code, error_reason, error_message, scored_at)
      values (${scoring}, 'aif', '1', '', 'UNAVAILABLE', 'JUDGE_UNAVAILABLE', 'no answer', ${now})`,
    sql`insert into scores (sample_id, reward, version, weights_hash, value, scored_at)
      values (${fine}, 'aif', '1', '', 1, ${now})`,
    sql`update samples set state = 'failed', error_stage = 'score', error_code = 'UNAVAILABLE', error_reason = 'JUDGE_UNAVAILABLE',
      error_message = 'aif: no answer', scored_at = ${now} where id = ${scoring}`,
    sql`update samples set state = 'failed', error_stage = 'generate', error_code = 'INTERNAL', error_reason = '',
      error_message = 'it fell over' where id = ${generating}`,
    sql`update samples set state = 'scored', accepted = true, scored_at = ${now} where id = ${fine}`,
  ];
  for (const statement of statements) await statement.execute(database);
}

async function upgraded(url: string, older: Kysely<Tables>): Promise<void> {
  await olderLedger(older);
  await older.destroy();
  const database = await openDatabase(url);
  try {
    const run = await findRun(database, 'run-old');
    assert.deepEqual([run?.state, run?.error], ['paused', '{"code":9,"message":"the judge is away"}']);
    const errors = await database
      .selectFrom('sample_errors')
      .select(['stage', 'attempt', 'reward', 'message'])
      .orderBy('stage')
      .execute();
    assert.deepEqual(
      errors.map(({ stage, attempt, reward, message }) => [stage, attempt, reward, message]),
      [
        ['generate', 1, '', 'it fell over'],
        ['score', 3, 'aif', 'no answer'],
      ],
    );
    // The run goes on from where it was.
    assert.equal(await reopenFailed(database, 'run-old', 1), 2);
    assert.equal(await moveRun(database, { id: 'run-old', from: ['paused'], to: 'running', now }), true);
    const [counts] = await countSamples(database, 'run-old');
    assert.deepEqual([counts?.toGenerate, counts?.toScore, counts?.scored], [1, 1, 1]);
    const states = await database.selectFrom('run_states').select('state').orderBy('position').execute();
    assert.deepEqual(
      states.map(({ state }) => state),
      ['paused', 'running'],
    );
  } finally {
    await database.destroy();
  }
}

test('a populated ledger of the schema before is brought up to date on PGlite, and its run goes on', async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'plumb-ledger-'));
  try {
    const pglite = await PGlite.create(path.join(folder, 'ledger'));
    await upgraded(
      `pglite:${path.join(folder, 'ledger')}`,
      new Kysely<Tables>({ dialect: new PGliteDialect({ pglite }) }),
    );
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test(
  'a populated ledger of the schema before is brought up to date on PostgreSQL, and its run goes on',
  { skip: postgresMissing ?? false },
  async () => {
    const server = await startPostgres();
    try {
      const pool = new pg.Pool({ connectionString: server.url });
      await upgraded(server.url, new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) }));
    } finally {
      await server.stop();
    }
  },
);

test('a URL of no database is refused with the fix', async () => {
  await assert.rejects(openDatabase('mysql://somewhere'), /give pglite:<folder> or postgres:/);
});
