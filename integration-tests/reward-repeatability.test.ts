/**
 * Clips of a manifest, scored again by other services in another order and in other batches: no value differs in any bit.
 * PLUMB_REPEATED_CLIPS (200) says how many clips.
 */

import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { randomGenerator } from '@plumb/diffusion';
import { connectBus, streamNames, subjects } from '@plumb/kit/bus';
import { createClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import { clipMediaType, encodeClip, openFolderStore } from '@plumb/media';
import { ValueRange } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { RewardOutcome, ScoreItemSchema } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { SampleScoredSchema, ScoringTaskSchema } from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import { sampleTrainingClip } from '@plumb/toybox';
import { startService } from './support/service-process.ts';

const clipCount = Number(process.env['PLUMB_REPEATED_CLIPS'] ?? 200);
const rewards = ['clip_score', 'pickscore', 'motion_floor', 'object_persistence', 'colour_stability'];

type Item = MessageInitShape<typeof ScoreItemSchema> & { readonly id: string };
/** The value of each clip and reward, under `<clip> <reward>`. */
type Values = Map<string, number>;

/** Takes the values of a clip, all of them made by a model or all of them kept from before. */
function record(values: Values, id: string, outcomes: readonly RewardOutcome[], cached: boolean): void {
  assert.deepEqual(
    outcomes.map(({ reward }) => reward),
    rewards,
  );
  for (const { reward, outcome, cached: kept } of outcomes) {
    assert.ok(outcome.case === 'score', `${id}, ${reward}: ${JSON.stringify(outcome.value)}`);
    assert.equal(kept, cached, `${id}, ${reward}`);
    values.set(`${id} ${reward}`, outcome.value.value);
  }
}

test(`${clipCount} clips have the same scores to the last bit by Score, ScoreStream and the queue`, async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), 'plumb-repeatability-'));
  const nats = await startNatsServer();
  const bus = await connectBus({ url: nats.url, name: 'test' });
  const stopping: (() => Promise<unknown>)[] = [];
  t.after(async () => {
    for (const stop of stopping) await stop();
    await bus.close();
    await nats.stop();
    await rm(folder, { recursive: true, force: true });
  });
  await bus.ensureStreams();
  const store = await openFolderStore(path.join(folder, 'artifacts'));
  const manifest: Item[] = [];
  for (let seed = 0; seed < clipCount; seed += 1) {
    const { caption, clip } = sampleTrainingClip(seed);
    const { uri, sha256 } = await store.put(await encodeClip(clip), { mediaType: clipMediaType });
    const { width, height, frames: frameCount, fps } = clip;
    const shape = { width, height, frameCount, fps, valueRange: ValueRange.UINT8 };
    const video = {
      source: { case: 'uri' as const, value: uri },
      sha256,
      mediaType: clipMediaType,
      ...shape,
    };
    manifest.push({ id: `clip-${seed}`, prompt: { text: caption }, video });
  }
  const shuffled = (name: string): Item[] => {
    const random = randomGenerator('order', name);
    return manifest
      .map((item) => ({ item, place: random.next() }))
      .toSorted((a, b) => a.place - b.place)
      .map(({ item }) => item);
  };

  /** A service of its own, with an empty cache, for some work. */
  async function withService(
    env: Readonly<Record<string, string>>,
    work: (client: ReturnType<typeof clientOf>) => Promise<void>,
  ): Promise<void> {
    const service = await startService('reward', {
      PLUMB_NATS_URL: nats.url,
      PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
      PLUMB_SPAN_DIRECTORY: path.join(folder, 'spans'),
      PLUMB_JUDGE_ADDRESS: '127.0.0.1:1',
      ...env,
    });
    const client = clientOf(service.address);
    stopping.push(() => service.stop());
    await work(client);
    client.close();
    await service.stop();
  }

  /** Calls of these sizes in turn, several at a time: which items share a batch is nobody's choice. */
  async function score(
    client: ReturnType<typeof clientOf>,
    order: readonly Item[],
    { sizes, atATime, cached }: { sizes: readonly number[]; atATime: number; cached: boolean },
  ): Promise<Values> {
    const values: Values = new Map();
    const calls: (readonly Item[])[] = [];
    for (let at = 0, turn = 0; at < order.length; turn += 1) {
      const size = sizes[turn % sizes.length] ?? 1;
      calls.push(order.slice(at, at + size));
      at += size;
    }
    const queue = calls.values();
    await Promise.all(
      Array.from({ length: atATime }, async () => {
        for (const items of queue) {
          const scored = await client.score({ rewards, items: [...items] });
          for (const { id, outcomes } of scored.items) record(values, id, outcomes, cached);
        }
      }),
    );
    return values;
  }

  let first: Values = new Map();
  function compare(again: Values, how: string): void {
    assert.equal(again.size, clipCount * rewards.length, how);
    const different = [...first].filter(([key, value]) => !Object.is(again.get(key), value));
    assert.deepEqual(
      different.map(([key, value]) => `${key}: ${value}, ${again.get(key)}`),
      [],
      how,
    );
  }

  await withService({}, async (client) => {
    first = await score(client, manifest, { sizes: [64], atATime: 1, cached: false });
    assert.equal(first.size, clipCount * rewards.length);
    assert.ok(new Set(first.values()).size > clipCount, 'clips have values of their own');
  });

  await withService({}, async (client) => {
    const streamed: Values = new Map();
    const requests = shuffled('stream').map((item) => ({ rewards, item }));
    for await (const { item } of client.scoreStream(requests)) {
      assert.ok(item);
      record(streamed, item.id, item.outcomes, false);
    }
    compare(streamed, 'by ScoreStream');
    const kept = await score(client, shuffled('kept'), { sizes: [9], atATime: 3, cached: true });
    compare(kept, 'from the cache');
  });

  await withService({}, async (client) => {
    const odd = { sizes: [1, 7, 64, 3, 13], atATime: 6, cached: false };
    compare(await score(client, shuffled('calls'), odd), 'by calls of odd sizes');
  });

  await withService({ PLUMB_BULK_CONCURRENCY: '5' }, async () => {
    const queued: Values = new Map();
    const { promise: all, resolve, reject } = Promise.withResolvers<void>();
    const events = await bus.consume(
      {
        stream: streamNames.events,
        durable: 'test-repeatability',
        subject: subjects.sampleScored,
        schema: SampleScoredSchema,
        maxInFlight: 64,
      },
      ({ sampleId, outcomes }) => {
        try {
          record(queued, sampleId, outcomes, false);
        } catch (error) {
          reject(error);
        }
        if (queued.size === clipCount * rewards.length) resolve();
      },
    );
    for (const { id, prompt, video } of shuffled('queue')) {
      const task = { sampleId: id, runId: 'run', iteration: 1, rewards };
      await bus.publish(
        subjects.taskScore,
        ScoringTaskSchema,
        { ...task, ...(prompt === undefined ? {} : { prompt }), ...(video === undefined ? {} : { video }) },
        { id: `${id}.score.1` },
      );
    }
    await all;
    await events.stop();
    compare(queued, 'by the queue');
  });
});

const clientOf = (address: string) => createClient(RewardService, address, { defaultDeadlineMs: 300_000 });
