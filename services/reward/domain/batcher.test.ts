import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { PlumbError } from '@plumb/kit/errors';
import { VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { PromptSchema } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import fc from 'fast-check';
import { createBatcher } from './batcher.ts';
import type { Batching, ItemResult, ScoringItem } from './reward-scorer.ts';

const never = new AbortController().signal;

function item(name: string, changes: Partial<ScoringItem> = {}): ScoringItem {
  return {
    video: create(VideoSchema),
    prompt: create(PromptSchema, { text: name }),
    clipHash: name,
    runId: '',
    clip: () => Promise.reject(new Error('not read here')),
    clipBytes: 0,
    signal: never,
    deadline: undefined,
    ...changes,
  };
}

/** A scorer whose batches end when the test says so, and give each item its place in the whole order. */
function gated(settings: Partial<Batching> = {}) {
  const batches: string[][] = [];
  const gates: PromiseWithResolvers<undefined>[] = [];
  const batching: Batching = {
    largestBatch: 3,
    largestDelayMs: 0,
    concurrentBatches: 1,
    largestQueue: 10,
    ...settings,
  };
  const batcher = createBatcher(
    'r',
    () => batching,
    async (items): Promise<ItemResult[]> => {
      batches.push(items.map(({ clipHash }) => clipHash));
      const gate = Promise.withResolvers<undefined>();
      gates.push(gate);
      await gate.promise;
      return items.map(({ clipHash }) =>
        clipHash === 'bad' ? { error: new Error('bad item') } : { score: { value: clipHash.length } },
      );
    },
  );
  return { batcher, batches, open: (index: number) => gates[index]?.resolve(undefined) };
}

const codeOf = async (promise: Promise<unknown>): Promise<string> => {
  try {
    await promise;
  } catch (error) {
    return PlumbError.from(error).code;
  }
  return 'OK';
};

test('interactive items go before bulk ones that came first', async () => {
  const { batcher, batches, open } = gated({ largestBatch: 2 });
  const first = batcher.submit(item('running'), 'bulk');
  const rest = [
    batcher.submit(item('bulk 1'), 'bulk'),
    batcher.submit(item('bulk 2'), 'bulk'),
    batcher.submit(item('call 1'), 'interactive'),
    batcher.submit(item('call 2'), 'interactive'),
    batcher.submit(item('call 3'), 'interactive'),
  ];
  open(0);
  await first;
  open(1);
  await Promise.all(rest.slice(2, 4));
  open(2);
  await Promise.all([rest[4], rest[0]]);
  open(3);
  await Promise.all(rest);
  assert.deepEqual(batches, [['running'], ['call 1', 'call 2'], ['call 3', 'bulk 1'], ['bulk 2']]);
});

test('a batch waits for company no longer than allowed, and not at all when it is full', async () => {
  const { batcher, batches, open } = gated({ largestBatch: 2, largestDelayMs: 30, concurrentBatches: 2 });
  const start = performance.now();
  const full = [batcher.submit(item('a'), 'bulk'), batcher.submit(item('b'), 'bulk')];
  assert.deepEqual(batches, [['a', 'b']], 'a full batch starts at once');
  open(0);
  await Promise.all(full);
  const alone = batcher.submit(item('c'), 'bulk');
  assert.equal(batches.length, 1);
  const opened = setInterval(() => open(1), 5);
  const { queueMs } = await alone;
  clearInterval(opened);
  assert.ok(queueMs >= 29 && performance.now() - start >= 29);
});

test('one bad item does not fail its batch', async () => {
  const { batcher, open } = gated({ largestBatch: 3, largestDelayMs: 1000 });
  const three = ['aa', 'bad', 'cccc'].map((name) => batcher.submit(item(name), 'bulk'));
  open(0);
  const settled = await Promise.allSettled(three);
  assert.deepEqual(
    settled.map((one) => (one.status === 'fulfilled' ? one.value.score.value : String(one.reason))),
    [2, 'Error: bad item', 4],
  );
});

test('a full queue pushes back and goes on when there is room', async () => {
  const { batcher, open } = gated({ largestQueue: 2, largestBatch: 2 });
  const running = batcher.submit(item('a'), 'bulk');
  const waiting = [batcher.submit(item('b'), 'bulk'), batcher.submit(item('c'), 'bulk')];
  assert.equal(await codeOf(batcher.submit(item('d'), 'interactive')), 'RESOURCE_EXHAUSTED');
  open(0);
  await running;
  open(1);
  await Promise.all(waiting);
  assert.equal(batcher.waiting, 0);
});

test('an item leaves the queue when its caller does, and is not scored', async () => {
  const { batcher, batches, open } = gated({ largestBatch: 1 });
  const running = batcher.submit(item('a'), 'bulk');
  const controller = new AbortController();
  const leaving = batcher.submit(item('gone', { signal: controller.signal }), 'bulk');
  const late = batcher.submit(item('late', { deadline: new Date(Date.now() - 1) }), 'bulk');
  const stays = batcher.submit(item('stays'), 'bulk');
  controller.abort(new PlumbError({ code: 'CANCELLED', reason: 'CANCELLED', message: 'left' }));
  assert.equal(await codeOf(leaving), 'CANCELLED');
  open(0);
  await running;
  assert.equal(await codeOf(late), 'DEADLINE_EXCEEDED');
  open(1);
  await stays;
  assert.deepEqual(batches, [['a'], ['stays']]);
});

test('an item that could not be scored in time is told so at once, and one that could is not', async () => {
  const { batcher, batches, open } = gated({ largestBatch: 1 });
  // Nothing is known of how long an item takes before the first has been scored.
  const first = batcher.submit(item('a'), 'interactive');
  await delay(20);
  open(0);
  await first;
  const running = batcher.submit(item('b'), 'interactive');
  const soon = (ms: number): Partial<ScoringItem> => ({ deadline: new Date(Date.now() + ms) });
  const hopeless = batcher.submit(item('hopeless', soon(30)), 'interactive');
  await assert.rejects(hopeless, (error) => {
    assert.ok(error instanceof PlumbError && error.code === 'RESOURCE_EXHAUSTED');
    assert.match(error.message, /would miss its deadline/);
    return (error.retryAfterMs ?? 0) >= 100;
  });
  const patient = batcher.submit(item('patient', soon(3_600_000)), 'interactive');
  open(1);
  await running;
  open(2);
  await patient;
  assert.deepEqual(batches, [['a'], ['b'], ['patient']]);
});

test('whatever comes in, everybody gets exactly one answer, the right one', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ size: fc.nat(50), bulk: fc.boolean(), leaves: fc.boolean() }), { maxLength: 60 }),
      fc.integer({ min: 1, max: 8 }),
      fc.integer({ min: 1, max: 4 }),
      fc.nat(2),
      async (work, largestBatch, concurrentBatches, largestDelayMs) => {
        const batching = { largestBatch, largestDelayMs, concurrentBatches, largestQueue: 100 };
        const seen = new Set<string>();
        const batcher = createBatcher(
          'r',
          () => batching,
          async (items) => {
            assert.ok(items.length <= largestBatch);
            await Promise.resolve();
            return items.map(({ clipHash }) => {
              assert.ok(!seen.has(clipHash), 'no item is scored twice');
              seen.add(clipHash);
              return { score: { value: Number(clipHash.split(' ')[1]) } };
            });
          },
        );
        const results = work.map(async ({ size, bulk, leaves }, index) => {
          const controller = new AbortController();
          const one = batcher.submit(
            item(`${index} ${size}`, { signal: controller.signal }),
            bulk ? 'bulk' : 'interactive',
          );
          if (leaves) controller.abort(new Error('left'));
          try {
            return (await one).score.value === size;
          } catch {
            return leaves;
          }
        });
        assert.ok((await Promise.all(results)).every(Boolean));
        assert.equal(batcher.waiting, 0);
      },
    ),
    { numRuns: 100 },
  );
});
