import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import type { PlumbError } from '@plumb/kit/errors';
import { openFolderStore } from '@plumb/media';
import { dataSetManifestSchema } from '@plumb/objective';
import type { DataSetManifest } from '@plumb/objective';
import { LabelKind } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import type { LabelSession } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import { HumanLabelsSchema, RunState } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { hasEnded, samplesOf, startWorld, until } from './testing/loop-world.ts';
import type { World } from './testing/loop-world.ts';

describe('label sessions', { timeout: 600_000 }, () => {
  let world: World;
  let folder: string;
  let run: Run;

  before(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'plumb-labels-'));
    const keyFile = path.join(folder, 'web-key');
    await writeFile(keyFile, randomBytes(32));
    world = await startWorld({ PLUMB_WEB_KEY_FILE: keyFile });
    const { run: created } = await world.client.createRun({ spec: world.spec, idempotencyKey: 'rated' });
    run = await until(world, created?.id ?? '', hasEnded);
    assert.equal(run.state, RunState.SUCCEEDED, run.error?.message);
  });
  after(async () => {
    await world?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  async function open(options: {
    readonly key: string;
    readonly kind?: LabelKind;
    readonly size?: number;
    readonly split?: Split;
    readonly runId?: string;
  }): Promise<LabelSession> {
    const { key, runId = run.id, kind = LabelKind.VERDICT, size = 10, split = Split.UNSPECIFIED } = options;
    const request = { runId, kind, size, split, name: key, idempotencyKey: key };
    const { session } = await world.labels.createLabelSession(request);
    assert.ok(session !== undefined);
    return session;
  }

  const queueOf = async (session: LabelSession, rater: string) =>
    await world.labels.getRatingQueue({ sessionId: session.id, rater });

  test('the same key opens the same session; another one under it is refused', async () => {
    const first = await open({ key: 'once' });
    assert.deepEqual(await open({ key: 'once' }), first);
    await assert.rejects(open({ key: 'once', kind: LabelKind.PREFERENCE }), {
      reason: 'IDEMPOTENCY_KEY_REUSED',
    });
    const { sessions } = await world.labels.listLabelSessions({ runId: run.id });
    assert.deepEqual(
      sessions.map(({ id }) => id),
      [first.id],
    );
  });

  test('clips are of held-out prompts unless asked otherwise, even over models and categories', async () => {
    const samples = new Map((await samplesOf(world, run.id)).map((sample) => [sample.video?.sha256, sample]));
    const shown = async (session: LabelSession) =>
      (await queueOf(session, 'ann')).items.map(({ clips }) => {
        const hash = /[0-9a-f]{64}/.exec(clips[0]?.url ?? '')?.[0];
        const sample = samples.get(hash);
        assert.ok(sample !== undefined);
        return sample;
      });
    const heldOut = await shown(await open({ key: 'held out', size: 12 }));
    assert.deepEqual(
      [...Map.groupBy(heldOut, ({ group, prompt }) => `${group} ${prompt?.category}`).values()].map(
        ({ length }) => length,
      ),
      [3, 3, 3, 3],
    );
    const training = await shown(await open({ key: 'training', size: 12, split: Split.TRAIN }));
    assert.deepEqual([...new Set(training.map(({ group }) => group))], ['train']);
  });

  test('every rater has an order of their own, which stays', async () => {
    const session = await open({ key: 'orders', size: 12 });
    const order = async (rater: string): Promise<number[]> =>
      (await queueOf(session, rater)).items.map(({ item }) => item);
    assert.deepEqual(await order('ann'), await order('ann'));
    assert.notDeepEqual(await order('ann'), await order('ben'));
    assert.deepEqual(
      (await order('ben')).toSorted((a, b) => a - b),
      [...Array(12).keys()],
    );
  });

  test('an answer is replaced by a later one and taken back by the last; a key counts once', async () => {
    const session = await open({ key: 'undo', size: 3 });
    const rate = async (key: string, answer: object) =>
      await world.labels.rate({ sessionId: session.id, rater: 'ann', item: 1, answer, idempotencyKey: key });
    const accept = { answer: { case: 'accept' as const, value: true } };
    const reject = { answer: { case: 'accept' as const, value: false }, failureMode: 'static' };
    assert.equal((await rate('a1', accept)).answered, 1);
    assert.equal((await rate('a1', accept)).answered, 1);
    assert.equal((await rate('a2', reject)).answered, 1);
    const standing = async () =>
      (await queueOf(session, 'ann')).items.find(({ item }) => item === 1)?.answer?.answer;
    assert.deepEqual(await standing(), { case: 'accept', value: false });
    assert.equal((await rate('a3', { answer: { case: 'withdrawn', value: true } })).answered, 0);
    assert.equal(await standing(), undefined);
    await assert.rejects(
      world.labels.rate({
        sessionId: session.id,
        rater: 'ann',
        item: 2,
        answer: accept,
        idempotencyKey: 'a1',
      }),
      { reason: 'IDEMPOTENCY_KEY_REUSED' },
    );
  });

  test('a preference is kept for the sample that was better, whichever side the rater saw it on', async () => {
    const session = await open({ key: 'pairs', kind: LabelKind.PREFERENCE, size: 12 });
    const after = new Map(
      (await samplesOf(world, run.id))
        .filter(({ group }) => group === 'after')
        .map((sample) => [sample.video?.sha256, sample.id]),
    );
    const hash = (url: string | undefined): string | undefined => /[0-9a-f]{64}/.exec(url ?? '')?.[0];
    const sides = new Set<number>();
    const { items } = await queueOf(session, 'cem');
    // Whatever the side, the candidate's clip is the better one.
    for (const { item, clips } of items) {
      const preferred = clips.findIndex(({ url }) => after.has(hash(url)));
      sides.add(preferred);
      await world.labels.rate({
        sessionId: session.id,
        rater: 'cem',
        item,
        answer: { answer: { case: 'preferred', value: preferred } },
        idempotencyKey: `cem ${item}`,
      });
    }
    assert.deepEqual(sides, new Set([0, 1]), 'sides are mixed');
    const labels = (await world.labels.listLabels({ runId: run.id, pageSize: 1000 })).labels.filter(
      ({ sessionId }) => sessionId === session.id,
    );
    assert.equal(labels.length, items.length);
    const candidates = new Set(after.values());
    assert.ok(labels.every(({ sampleId }) => candidates.has(sampleId)));
    const again = await queueOf(session, 'cem');
    assert.deepEqual(
      again.items.map(({ answer }) => answer?.answer.value),
      items.map(({ clips }) => clips.findIndex(({ url }) => after.has(hash(url)))),
    );
  });

  test('what makes no sense is refused by field', async () => {
    const refused = async (request: object): Promise<string[]> => {
      const error = await world.labels
        .createLabelSession({
          runId: run.id,
          kind: LabelKind.VERDICT,
          size: 1,
          idempotencyKey: 'x',
          ...request,
        })
        .then(
          () => undefined,
          (thrown: unknown) => thrown as PlumbError,
        );
      return error?.fieldViolations?.map(({ field }) => field) ?? [];
    };
    assert.deepEqual(await refused({ size: 0 }), ['size']);
    assert.deepEqual(await refused({ size: 5001 }), ['size']);
    assert.deepEqual(await refused({ kind: LabelKind.PREFERENCE, split: Split.TRAIN }), ['split']);
    assert.deepEqual(await refused({ kind: LabelKind.UNSPECIFIED, name: 'n'.repeat(201) }), ['kind', 'name']);
    await assert.rejects(world.labels.createRaterLink({ sessionId: 'none', rater: 'ann' }), {
      code: 'NOT_FOUND',
    });
    const { id: sessionId } = await open({ key: 'once' });
    await assert.rejects(world.labels.createRaterLink({ sessionId, rater: 'Ann B' }), /lower-case/);
    await assert.rejects(world.labels.createRaterLink({ sessionId, rater: 'ann', days: 366 }), /1 to 365/);
    await assert.rejects(
      world.labels.rate({
        sessionId,
        rater: 'ann',
        item: 0,
        answer: { answer: { case: 'preferred', value: 0 } },
        idempotencyKey: 'wrong kind',
      }),
      /asks for 'accept'/,
    );
  });

  test('agreement comes with the reliability of every reward whose scores are shares', async () => {
    const session = await open({ key: 'reliability', size: 8 });
    for (const { item } of (await queueOf(session, 'ann')).items) {
      await world.labels.rate({
        sessionId: session.id,
        rater: 'ann',
        item,
        answer: { answer: { case: 'accept', value: true } },
        idempotencyKey: `all good ${item}`,
      });
    }
    const { rewards } = await world.labels.getRaterAgreement({ sessionId: session.id });
    const [aif] = rewards;
    assert.equal(aif?.name, 'aif');
    assert.equal(
      aif.reliability.reduce((sum, { items }) => sum + items, 0),
      8,
    );
    assert.ok(aif.reliability.every(({ accepted }) => accepted === 1));
    // All are accepted, so what is not 1 is the share that the judge rejects.
    assert.ok(Math.abs((aif.calibrationError ?? 0) - (1 - aif.accuracy)) < 1e-12);
  });

  test('labels reach training where the spec says so: the run waits for them, and the data set says whose they are', async () => {
    const spec = {
      ...world.spec,
      seed: 77n,
      labels: create(HumanLabelsSchema, { use: 'override', atLeast: 4 }),
    };
    const { run: created } = await world.client.createRun({ spec, idempotencyKey: 'human' });
    const runId = created?.id ?? '';
    const waiting = await until(world, runId, hasEnded);
    assert.equal(waiting.state, RunState.PAUSED);
    assert.match(waiting.error?.message ?? '', /decided on 0 training clips of iteration 1.*waits for 4/);

    const session = await open({ runId, key: 'for training', size: 6, split: Split.TRAIN });
    const samples = new Map((await samplesOf(world, runId)).map((sample) => [sample.video?.sha256, sample]));
    const judged = ({ scores }: { scores: readonly { outcome: { value?: unknown } }[] }): boolean =>
      scores[0]?.outcome.value === 1;
    const rated: { readonly id: string; readonly accept: boolean }[] = [];
    for (const [place, { item, clips }] of (await queueOf(session, 'ann')).items.entries()) {
      const sample = samples.get(/[0-9a-f]{64}/.exec(clips[0]?.url ?? '')?.[0]);
      assert.ok(sample !== undefined);
      // The first three against the judge, the others with it; on the last the second rater says otherwise.
      const accept = place < 3 ? !judged(sample) : judged(sample);
      rated.push({ id: sample.id, accept });
      for (const rater of ['ann', 'ben']) {
        const differs = place === 5 && rater === 'ben';
        await world.labels.rate({
          sessionId: session.id,
          rater,
          item,
          answer: { answer: { case: 'accept', value: accept !== differs } },
          idempotencyKey: `human ${rater} ${item}`,
        });
      }
    }
    await world.client.resumeRun({ id: runId, idempotencyKey: 'go on' });
    const ended = await until(world, runId, ({ state }) => state === RunState.SUCCEEDED);

    const manifest = await dataSetOf(ended.id);
    assert.deepEqual(manifest.humanLabels, { reward: 'aif', samples: 5, changed: 3 });
    const divided = rated.pop();
    assert.deepEqual(manifest.excluded, [{ sampleId: divided?.id, reason: 'label:divided' }]);
    assert.deepEqual(
      manifest.samples
        .flatMap(({ sampleId, human }) => (human === undefined ? [] : [{ id: sampleId, ...human }]))
        .toSorted((a, b) => (a.id < b.id ? -1 : 1)),
      rated
        .map(({ id, accept }) => ({ id, accept, accepting: accept ? 2 : 0, rejecting: accept ? 0 : 2 }))
        .toSorted((a, b) => (a.id < b.id ? -1 : 1)),
    );

    // Another run that takes over the same clips takes what people said of them; one that does not say so takes nothing.
    const { run: next } = await world.client.createRun({
      spec: { ...spec, name: 'once more' },
      idempotencyKey: 'human again',
    });
    assert.equal((await until(world, next?.id ?? '', hasEnded)).state, RunState.SUCCEEDED);
    assert.deepEqual((await dataSetOf(next?.id ?? '')).humanLabels, manifest.humanLabels);
    const { run: without } = await world.client.createRun({
      spec: { ...world.spec, seed: 77n },
      idempotencyKey: 'no humans',
    });
    assert.equal((await until(world, without?.id ?? '', hasEnded)).state, RunState.SUCCEEDED);
    assert.equal((await dataSetOf(without?.id ?? '')).humanLabels, undefined);
  });

  async function dataSetOf(runId: string): Promise<DataSetManifest> {
    const { report } = await world.client.getReport({ runId });
    const dataSet = report?.iterations[0]?.dataSetManifest;
    assert.ok(dataSet !== undefined);
    const store = await openFolderStore(world.artifacts);
    const bytes = await store.get(dataSet.uri, dataSet.sha256);
    return dataSetManifestSchema.parse(JSON.parse(Buffer.from(bytes).toString('utf8')));
  }
});
