import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { create, toJson } from '@bufbuild/protobuf';
import type { PlumbError } from '@plumb/kit/errors';
import { openFolderStore } from '@plumb/media';
import { dataSetManifestSchema } from '@plumb/objective';
import { ReportSchema, RunState, Stage } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { ModelState } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { ObjectiveSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { modelFixture } from './testing/run-spec-fixture.ts';
import { hasEnded, patiently, samplesOf, startWorld, until } from './testing/loop-world.ts';
import type { World } from './testing/loop-world.ts';
import { postgresMissing, startPostgres } from './testing/postgres-server.ts';

async function all<Item>(stream: AsyncIterable<Item>): Promise<Item[]> {
  const items: Item[] = [];
  for await (const item of stream) items.push(item);
  return items;
}

/** What must be equal between a disturbed and an undisturbed run: everything but times and traces. */
async function ledgerOf(world: World, runId: string): Promise<unknown> {
  const samples = (await samplesOf(world, runId)).map((sample) => ({
    id: sample.id,
    iteration: sample.iteration,
    seed: sample.seed,
    model: sample.modelVersion,
    clip: sample.video?.sha256,
    scores: sample.scores.map(({ reward, version, outcome, reason }) => ({
      reward,
      version,
      outcome,
      reason,
    })),
  }));
  const { report } = await world.client.getReport({ runId });
  assert.ok(report !== undefined);
  for (const iteration of report.iterations) {
    delete iteration.job?.endTime;
  }
  return { samples, report: toJson(ReportSchema, report) };
}

describe('a run', { timeout: 600_000 }, () => {
  let world: World | undefined;
  const here = (): World => {
    assert.ok(world !== undefined);
    return world;
  };
  /** A run that nothing disturbs, made once: what disturbed ones are compared with. */
  let reference: Promise<unknown> | undefined;
  const undisturbed = async () => {
    const key = { idempotencyKey: 'same' };
    const spec = { ...here().spec, seed: 26n };
    const { run } = await here().client.createRun({ spec, ...key });
    const id = run?.id ?? '';
    reference ??= until(here(), id, hasEnded);
    await reference;
    return { spec, key, id, ledger: await ledgerOf(here(), id) };
  };
  before(async () => {
    // Only an empty queue counts as one that lost its tasks, so a short time does no harm.
    world = await startWorld({ PLUMB_REPUBLISH_AFTER_SECONDS: '2' });
  });
  after(async () => {
    await world?.stop();
  });

  test('goes from prompts to a promoted model, and its report says so', async () => {
    const { client, registry, spec, artifacts } = here();
    const { run: created } = await client.createRun({ spec, idempotencyKey: 'whole' });
    assert.ok(created !== undefined);
    const run = await until(here(), created.id, hasEnded);
    assert.equal(run.state, RunState.SUCCEEDED, JSON.stringify(run.error?.message));
    assert.equal(run.stage, Stage.DONE);
    assert.ok(
      run.progress.every(({ done, total }) => done === total),
      'every stage is complete',
    );
    assert.ok(run.activeSeconds > 0);
    assert.equal(run.counts?.errors, 0n);
    assert.equal(run.counts.scored, run.counts.planned);
    assert.equal(run.training?.step, 3);

    const { report } = await client.getReport({ runId: run.id });
    const [iteration] = report?.iterations ?? [];
    assert.ok(iteration !== undefined);
    assert.equal(iteration.decision?.promoted, true);
    assert.deepEqual(Object.keys(iteration.before).toSorted(), ['DM', 'FD', 'overall']);
    assert.ok((iteration.difference['overall']?.mean ?? 0) > 0);
    assert.equal(iteration.checksAfter['picture']?.rate, 1);
    assert.deepEqual(
      iteration.training.map(({ step }) => step),
      [1, 2, 3],
    );
    assert.ok(iteration.trainingAcceptance['overall'] !== undefined);

    const { modelVersion: promoted } = await registry.getModelVersion({ version: 'toy@promoted' });
    assert.equal(promoted?.version, iteration.afterVersion);
    assert.equal(promoted.state, ModelState.PROMOTED);
    assert.equal(promoted.parentVersion, spec.base?.version);
    assert.equal(run.currentModelVersion, promoted.version);

    const dataSet = iteration.job?.spec?.dataSet;
    assert.ok(dataSet !== undefined);
    const store = await openFolderStore(artifacts);
    const manifest = JSON.parse(
      Buffer.from(await store.get(dataSet.uri, dataSet.sha256)).toString('utf8'),
    ) as unknown;
    assert.equal(dataSetManifestSchema.parse(manifest).samples.length, 48);
    const evaluation = iteration.manifest;
    assert.ok(evaluation !== undefined && (await store.has(evaluation.sha256)));
  });

  test('the same key finds the same run; another spec under it is refused by its first difference', async () => {
    const { client, spec } = here();
    const { run } = await client.createRun({ spec, idempotencyKey: 'whole' });
    assert.equal(run?.state, RunState.SUCCEEDED);
    await assert.rejects(client.createRun({ spec: { ...spec, seed: 8n }, idempotencyKey: 'whole' }), {
      code: 'ALREADY_EXISTS',
      reason: 'IDEMPOTENCY_KEY_REUSED',
      message: /spec\.seed is "7" there and "8" here/,
    });
  });

  test('a person overrides the gate with a reason; said twice it is done once, and both models say why', async () => {
    const { client, registry, spec } = here();
    const { run } = await client.createRun({ spec, idempotencyKey: 'whole' });
    const runId = run?.id ?? '';
    const candidate = run?.currentModelVersion ?? '';
    const base = spec.base?.version ?? '';
    const refusal = {
      runId,
      promote: false,
      reason: 'it drops the ball',
      person: 'ada',
      idempotencyKey: 'no',
    };
    await assert.rejects(
      client.overrideDecision({ ...refusal, reason: ' ', person: '' }),
      (error: PlumbError) => {
        const fields = error.fieldViolations?.map(({ field }) => field);
        assert.deepEqual(fields, ['reason', 'person']);
        return true;
      },
    );
    await assert.rejects(client.overrideDecision({ ...refusal, iteration: 2 }), { reason: 'RUN_CONFLICT' });

    const refused = await client.overrideDecision(refusal);
    assert.equal(refused.promoted?.version, base);
    assert.equal(refused.decision?.promoted, true);
    assert.equal(refused.decision.override?.promoted, false);
    assert.equal(refused.decision.override.person, 'ada');
    const { modelVersion: left } = await registry.getModelVersion({ version: candidate });
    assert.equal(left?.state, ModelState.REFUSED);
    assert.match(left.reasons.join(), /Refused by ada against the gate: it drops the ball/);

    const approval = { ...refusal, promote: true, reason: 'it does not', idempotencyKey: 'yes' };
    assert.equal((await client.overrideDecision(approval)).promoted?.version, candidate);
    // The first one again, after the second: it was done, and stays overridden.
    const again = await client.overrideDecision(refusal);
    assert.equal(again.promoted?.version, candidate);
    assert.equal(again.decision?.override?.promoted, true);
    await assert.rejects(client.overrideDecision({ ...approval, idempotencyKey: 'no' }), {
      reason: 'IDEMPOTENCY_KEY_REUSED',
    });
    const { report } = await client.getReport({ runId });
    assert.equal(report?.iterations[0]?.decision?.override?.reason, 'it does not');
  });

  test('an export has the rows of the run and of no other; an unknown table is refused by name', async () => {
    const { client, spec } = here();
    const { run } = await client.createRun({ spec, idempotencyKey: 'whole' });
    const runId = run?.id ?? '';
    const rows = new Map<string, unknown[][]>();
    const columns = new Map<string, string[]>();
    for await (const part of client.exportRun({ runId })) {
      columns.set(
        part.table,
        part.columns.map(({ name }) => name),
      );
      const parsed = part.rows.map((row) => JSON.parse(row) as unknown[]);
      rows.set(part.table, [...(rows.get(part.table) ?? []), ...parsed]);
    }
    const cell = (table: string, row: unknown[], column: string): unknown =>
      row[columns.get(table)?.indexOf(column) ?? -1];
    const samples = rows.get('samples') ?? [];
    assert.equal(samples.length, Number(run?.counts?.planned));
    const ids = samples.map((row) => String(cell('samples', row, 'id')));
    assert.deepEqual(ids.toSorted(), (await samplesOf(here(), runId)).map(({ id }) => id).toSorted());
    assert.ok(samples.every((row) => cell('samples', row, 'run_id') === runId));
    assert.equal(rows.get('runs')?.length, 1);
    assert.equal(rows.get('overrides')?.length, 2);
    assert.equal(rows.get('training_progress')?.length, 3);
    const only = await all(client.exportRun({ runId, tables: ['decisions'] }));
    assert.deepEqual([...new Set(only.map(({ table }) => table))], ['decisions']);
    await assert.rejects(
      all(client.exportRun({ runId, tables: ['decisions', 'secrets'] })),
      /tables\[1\].*'secrets' is unknown/,
    );
    await assert.rejects(all(client.exportRun({ runId: 'run-0000000000000000' })), {
      code: 'NOT_FOUND',
    });
  });

  test('a run with the same seed and model takes over every clip, and comes to the same end', async () => {
    const { client, spec, peers } = here();
    const made = peers.generated.size;
    assert.ok(spec.objective !== undefined);
    const { run: created } = await client.createRun({
      spec: { ...spec, objective: create(ObjectiveSchema, { ...spec.objective, algorithm: 'sft' }) },
      idempotencyKey: 'control',
    });
    const run = await until(here(), created?.id ?? '', hasEnded);
    assert.equal(run.state, RunState.SUCCEEDED, run.error?.message);
    // Training samples and held-out samples of the base are there; the candidate has other weights.
    assert.equal(run.counts?.reused, 48n + 24n);
    assert.equal(peers.generated.size - made, 24);
    const taken = (await samplesOf(here(), run.id)).filter(
      ({ reusedFromSampleId }) => reusedFromSampleId !== '',
    );
    assert.equal(taken.length, 72);
  });

  test('bad specs are refused with every violation; a base that is not stored as well', async () => {
    const { client, spec } = here();
    await assert.rejects(
      client.createRun({ spec: { ...spec, samplesPerPrompt: 0, rewards: [] }, idempotencyKey: 'bad' }),
      (error: PlumbError) => {
        assert.equal(error.code, 'INVALID_ARGUMENT');
        assert.ok((error.fieldViolations?.length ?? 0) >= 3);
        return true;
      },
    );
    await assert.rejects(
      client.createRun({ spec: { ...spec, base: modelFixture('f'.repeat(64)) }, idempotencyKey: 'absent' }),
      { reason: 'ARTIFACT_NOT_FOUND' },
    );
    await assert.rejects(client.createRun({ spec, idempotencyKey: '' }), { code: 'INVALID_ARGUMENT' });
    await assert.rejects(client.getRun({ id: 'run-none' }), { reason: 'RUN_NOT_FOUND' });
    await assert.rejects(client.listRuns({ pageToken: 'nonsense' }), /page_token/);
  });

  test('labels are kept once, and refused where they make no sense', async () => {
    const { labels, client } = here();
    const { runs } = await client.listRuns({});
    const runId = runs.find(({ counts }) => counts?.reused === 0n)?.id ?? '';
    const [sample] = await samplesOf(here(), runId);
    assert.ok(sample !== undefined);
    const label = { sampleId: sample.id, rater: 'r1', answer: { case: 'accept' as const, value: true } };
    const { label: first } = await labels.createLabel({ label, idempotencyKey: 'l1' });
    const { label: second } = await labels.createLabel({ label, idempotencyKey: 'l1' });
    assert.deepEqual(second, first);
    await assert.rejects(labels.createLabel({ label: { ...label, rater: 'r2' }, idempotencyKey: 'l1' }), {
      code: 'ALREADY_EXISTS',
    });
    await assert.rejects(
      labels.createLabel({ label: { ...label, failureMode: 'static' }, idempotencyKey: 'l2' }),
      {
        code: 'INVALID_ARGUMENT',
      },
    );
    await assert.rejects(
      labels.createLabel({ label: { ...label, sampleId: 'none' }, idempotencyKey: 'l3' }),
      {
        code: 'NOT_FOUND',
      },
    );
    const page = await labels.listLabels({ runId });
    assert.equal(page.labels.length, 1);
  });

  test('a person can go back to an earlier model', async () => {
    const { registry, spec } = here();
    const version = spec.base?.version ?? '';
    await assert.rejects(registry.promoteModelVersion({ version, reason: ' ' }), {
      code: 'INVALID_ARGUMENT',
    });
    await registry.promoteModelVersion({ version, reason: 'the new one flickers' });
    const { modelVersion } = await registry.getModelVersion({ version: 'toy@promoted' });
    assert.equal(modelVersion?.version, version);
    assert.deepEqual(modelVersion.reasons, ['the new one flickers']);
    const { modelVersions } = await registry.listModelVersions({ model: 'toy' });
    assert.equal(modelVersions.length, 3);
    await assert.rejects(registry.getModelVersion({ version: 'toy@000000000000' }), {
      reason: 'MODEL_NOT_FOUND',
    });
  });

  test('errors beyond the share pause the run with the reason; resumed, it tries them again and ends', async () => {
    const { client, spec, peers } = here();
    peers.behaviour.failScores = true;
    const { run: created } = await client.createRun({
      spec: { ...spec, seed: 21n },
      idempotencyKey: 'errors',
    });
    const id = created?.id ?? '';
    const paused = await until(here(), id, hasEnded);
    assert.equal(paused.state, RunState.PAUSED);
    assert.match(paused.error?.message ?? '', /samples \(train prompts, iteration 1\) ended in errors/);
    assert.ok((paused.counts?.errors ?? 0n) > 0n);
    const failed = (await samplesOf(here(), id)).find(({ error }) => error !== undefined);
    assert.match(failed?.error?.message ?? '', /the judge does not answer/);

    peers.behaviour.failScores = false;
    await client.resumeRun({ id });
    const run = await until(here(), id, hasEnded);
    assert.equal(run.state, RunState.SUCCEEDED, run.error?.message);
    assert.equal(run.counts?.errors, 0n);
    assert.equal(run.error, undefined);
  });

  test('a failed training job pauses the run; resumed, it trains again', async () => {
    const { client, spec, peers } = here();
    peers.behaviour.failJobs = 1;
    const { run: created } = await client.createRun({ spec: { ...spec, seed: 22n }, idempotencyKey: 'job' });
    const id = created?.id ?? '';
    const paused = await until(here(), id, hasEnded);
    assert.equal(paused.state, RunState.PAUSED);
    assert.match(paused.error?.message ?? '', /the training job failed: the engine ran out of memory/);
    await client.resumeRun({ id });
    const run = await until(here(), id, hasEnded);
    assert.equal(run.state, RunState.SUCCEEDED, run.error?.message);
    assert.equal([...peers.jobs.keys()].filter((key) => key.startsWith(id)).length, 2);
  });

  test('a paused run does nothing, a resumed one goes on, a cancelled one has ended', async () => {
    const { client, spec, peers } = here();
    peers.behaviour.clipMs = 20;
    const { run: created } = await client.createRun({
      spec: { ...spec, seed: 23n },
      idempotencyKey: 'pause',
    });
    const id = created?.id ?? '';
    await until(here(), id, ({ counts }) => (counts?.generated ?? 0n) > 0n);
    await client.pauseRun({ id });
    await client.pauseRun({ id });
    const { run: paused } = await client.getRun({ id });
    assert.equal(paused?.state, RunState.PAUSED);
    await client.resumeRun({ id });
    await until(here(), id, ({ counts }) => (counts?.scored ?? 0n) > 10n);
    const { run: cancelled } = await client.cancelRun({ id });
    assert.equal(cancelled?.state, RunState.CANCELLED);
    assert.ok(cancelled.endTime !== undefined);
    await assert.rejects(client.resumeRun({ id }), { reason: 'RUN_CONFLICT' });
    peers.behaviour.clipMs = 0;
  });

  test('each iteration goes on from the promoted model and reuses its held-out clips', async () => {
    const { client, spec } = here();
    const { run: created } = await client.createRun({
      spec: { ...spec, seed: 24n, iterations: 2 },
      idempotencyKey: 'two',
    });
    const run = await until(here(), created?.id ?? '', hasEnded);
    assert.equal(run.state, RunState.SUCCEEDED, run.error?.message);
    assert.equal(run.iteration, 2);
    const { report } = await client.getReport({ runId: run.id });
    const [first, second] = report?.iterations ?? [];
    assert.equal(first?.decision?.promoted, true);
    assert.equal(second?.beforeVersion, first.afterVersion);
    // What was after is before now: same model, same seeds.
    assert.equal(run.counts?.reused, 24n);
  });

  test('tasks that bring no result are enqueued again', async () => {
    const { client, spec, peers } = here();
    peers.behaviour.loseTasks = 5;
    const { run: created } = await client.createRun({ spec: { ...spec, seed: 25n }, idempotencyKey: 'lost' });
    const run = await until(here(), created?.id ?? '', hasEnded);
    assert.equal(run.state, RunState.SUCCEEDED, run.error?.message);
    assert.equal(run.counts?.scored, run.counts?.planned);
  });

  test('SIGKILL: wherever it strikes, the ledger ends as that of an undisturbed run', async () => {
    const { spec, key, id, ledger } = await undisturbed();
    const disturbed = await startWorld();
    try {
      const kills: Promise<void>[] = [];
      const killAt = [1, 30, 60, 90];
      const kill = (): void => {
        kills.push(
          (kills.at(-1) ?? Promise.resolve()).then(async () => await disturbed.loop.killAndRestart()),
        );
      };
      disturbed.peers.behaviour.onGenerated = (count) => {
        if (count < (killAt[0] ?? Infinity)) return;
        killAt.shift();
        kill();
      };
      let struck = false;
      disturbed.peers.behaviour.onStep = (step) => {
        if (step === 2 && !struck) {
          struck = true;
          kill();
        }
      };
      const create = { spec, ...key };
      // A kill in the middle of the answer: the same key finds the run.
      await disturbed.client.createRun(create, patiently).catch(async (error: PlumbError) => {
        assert.ok(error.retryable, error.message);
        await disturbed.client.createRun(create, patiently);
      });
      const ended = await until(disturbed, id, hasEnded);
      await Promise.all(kills);
      assert.equal(ended.state, RunState.SUCCEEDED, ended.error?.message);
      assert.equal(kills.length, 5);
      assert.deepEqual(await ledgerOf(disturbed, id), ledger);
    } finally {
      await disturbed.stop();
    }
  });

  test(
    'database connections that are cut, and a database that crashes: the ledger ends as that of an undisturbed run',
    { skip: postgresMissing ?? false },
    async () => {
      const { spec, key, id, ledger } = await undisturbed();
      const postgres = await startPostgres();
      const disturbed = await startWorld({ PLUMB_DATABASE_URL: postgres.url });
      try {
        let last: Promise<unknown> = Promise.resolve();
        let cut = 0;
        const strike = async (earlier: Promise<unknown>, crash: boolean): Promise<void> => {
          await earlier;
          if (crash) await postgres.crashAndRestart();
          else cut += await postgres.cutConnections();
        };
        const cutAt = [1, 12, 24, 36, 60, 72, 84, 90];
        const crashAt = [48, 96];
        disturbed.peers.behaviour.clipMs = 5;
        disturbed.peers.behaviour.onGenerated = (count) => {
          const crash = crashAt[0] !== undefined && count >= crashAt[0];
          if (!crash && (cutAt[0] === undefined || count < cutAt[0])) return;
          if (crash) crashAt.shift();
          else cutAt.shift();
          last = strike(last, crash);
        };
        await disturbed.client.createRun({ spec, ...key });
        const ended = await until(disturbed, id, hasEnded);
        await last;
        assert.equal(ended.state, RunState.SUCCEEDED, ended.error?.message);
        assert.deepEqual([cutAt, crashAt], [[], []]);
        assert.ok(cut > 0);
        assert.deepEqual(await ledgerOf(disturbed, id), ledger);
      } finally {
        try {
          await disturbed.stop();
        } finally {
          await postgres.stop();
        }
      }
    },
  );
});
