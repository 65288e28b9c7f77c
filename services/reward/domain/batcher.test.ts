import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { PlumbError } from '@plumb/kit/errors';
import { VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { PromptSchema } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import fc from 'fast-check';
import { createBatcher } from './batcher.ts';
import type { Batched, BatcherParts } from './batcher.ts';
import type { Batching, ItemResult, ScoringItem } from './reward-scorer.ts';

const never = new AbortController().signal;
const badItem = new PlumbError({ code: 'DATA_LOSS', reason: 'ARTIFACT_CORRUPT', message: 'bad item' });

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
function gated(settings: Partial<Batching> = {}, parts: Pick<BatcherParts, 'prepare'> = {}) {
  const batches: string[][] = [];
  const gates: PromiseWithResolvers<undefined>[] = [];
  const batching: Batching = {
    largestBatch: 3,
    largestDelayMs: 0,
    concurrentBatches: 1,
    largestQueue: 10,
    ...settings,
  };
  const batcher = createBatcher('r', {
    batching: () => batching,
    ...parts,
    async score(items): Promise<ItemResult[]> {
      batches.push(items.map(({ clipHash }) => clipHash));
      const gate = Promise.withResolvers<undefined>();
      gates.push(gate);
      await gate.promise;
      return items.map(({ clipHash }) =>
        clipHash === 'bad' ? { error: badItem } : { score: { value: clipHash.length } },
      );
    },
  });
  return { batcher, batches, open: (index: number) => gates[index]?.resolve(undefined) };
}

const codeOf = async (promise: Promise<Batched>): Promise<string> => {
  const batched = await promise;
  return 'error' in batched ? batched.error.code : 'OK';
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
  const settled = await Promise.all(three);
  assert.deepEqual(
    settled.map((one) => ('score' in one ? one.score.value : one.error)),
    [2, badItem, 4],
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
  const told = await hopeless;
  assert.ok('error' in told && told.error.code === 'RESOURCE_EXHAUSTED');
  assert.match(told.error.message, /would miss its deadline/);
  assert.ok((told.error.retryAfterMs ?? 0) >= 100);
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
        let held = 0;
        const batcher = createBatcher('r', {
          batching: () => batching,
          async prepare(one) {
            held += 1;
            await Promise.resolve();
            return { item: one, [Symbol.dispose]: () => (held -= 1) };
          },
          async score(items) {
            assert.ok(items.length <= largestBatch);
            await Promise.resolve();
            return items.map(({ clipHash }) => {
              assert.ok(!seen.has(clipHash), 'no item is scored twice');
              seen.add(clipHash);
              return { score: { value: Number(clipHash.split(' ')[1]) } };
            });
          },
        });
        const results = work.map(async ({ size, bulk, leaves }, index) => {
          const controller = new AbortController();
          const one = batcher.submit(
            item(`${index} ${size}`, { signal: controller.signal }),
            bulk ? 'bulk' : 'interactive',
          );
          if (leaves) controller.abort(new Error('left'));
          const batched = await one;
          return 'score' in batched ? batched.score.value === size : leaves;
        });
        assert.ok((await Promise.all(results)).every(Boolean));
        await batcher.idle();
        assert.deepEqual([batcher.waiting, held], [0, 0]);
      },
    ),
    { numRuns: 100 },
  );
});

test('an item that is slow to prepare holds nobody up, and may be left before it is ready', async () => {
  const slow = Promise.withResolvers<undefined>();
  let disposed = 0;
  const { batcher, batches, open } = gated(
    { largestBatch: 1 },
    {
      prepare: async (one) => {
        if (one.clipHash.startsWith('slow')) await slow.promise;
        return { item: one, [Symbol.dispose]: () => (disposed += 1) };
      },
    },
  );
  const caller = new AbortController();
  const first = batcher.submit(item('slow and left', { signal: caller.signal }), 'interactive');
  const second = batcher.submit(item('slow'), 'interactive');
  const quick = batcher.submit(item('quick'), 'bulk');
  await delay(0);
  assert.deepEqual([batches, batcher.waiting], [[['quick']], 2]);
  open(0);
  assert.equal(await codeOf(quick), 'OK');
  caller.abort(new PlumbError({ code: 'CANCELLED', reason: 'CANCELLED', message: 'left' }));
  assert.equal(await codeOf(first), 'CANCELLED');
  slow.resolve(undefined);
  await delay(0);
  open(1);
  const batched = await second;
  assert.ok('score' in batched && batched.queueMs > 0);
  await batcher.idle();
  assert.deepEqual([batches, disposed], [[['quick'], ['slow']], 3]);
});

/**
 * Ten times more than a reward can do, on a clock of the test's own. Batches take their time give or take `noise`.
 *
 * @returns what each item ended with, and how long after it came
 */
async function overload(
  t: TestContext,
  { seed, noise, stallAt }: { readonly seed: number; readonly noise: number; readonly stallAt?: number },
) {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'], now: 1_000_000 });
  const factors = fc.sample(fc.double({ min: 1 - noise, max: 1 + noise, noNaN: true }), {
    seed,
    numRuns: 5000,
  });
  const [largestBatch, itemCost, deadlineMs] = [8, 10, 5000];
  let batches = 0;
  const batcher = createBatcher('r', {
    batching: () => ({ largestBatch, largestDelayMs: 2, concurrentBatches: 1, largestQueue: 100_000 }),
    now: () => Date.now(),
    async score(items): Promise<ItemResult[]> {
      batches += 1;
      const factor = factors[batches % factors.length] ?? 1;
      const cost = batches === stallAt ? 60_000 : items.length * itemCost * factor;
      await new Promise((resolve) => setTimeout(resolve, cost));
      return items.map(() => ({ score: { value: 1 } }));
    },
  });
  const ends: { readonly code: string; readonly afterMs: number }[] = [];
  for (let ms = 0; ms < 20_000; ms += 1) {
    const came = Date.now();
    const one = item(String(ms), { deadline: new Date(came + deadlineMs) });
    void (async () => {
      const batched = await batcher.submit(one, ms % 3 === 0 ? 'bulk' : 'interactive');
      ends.push({ code: 'error' in batched ? batched.error.code : 'OK', afterMs: Date.now() - came });
    })();
    t.mock.timers.tick(1);
    // What has become ready runs before the clock goes on.
    await turn();
  }
  for (let ms = 0; ms < 70_000; ms += 10) {
    t.mock.timers.tick(10);
    await turn();
  }
  t.mock.timers.reset();
  return { ends, deadlineMs, batches };
}

for (const seed of [1, 2, 3]) {
  test(`under ten times what it can do, whoever is let in is scored in time (${seed})`, async (t) => {
    const { ends, deadlineMs } = await overload(t, { seed, noise: 0.4 });
    assert.equal(ends.length, 20_000, 'nobody is lost');
    const scored = ends.filter(({ code }) => code === 'OK');
    const refused = ends.filter(({ code }) => code === 'RESOURCE_EXHAUSTED');
    assert.equal(scored.length + refused.length, ends.length);
    assert.ok(scored.every(({ afterMs }) => afterMs < deadlineMs));
    // 20 s of 10 ms an item are 2,000; what is refused is no loss of what could be done.
    assert.ok(scored.length > 1900, `${scored.length} were scored`);
    // One millisecond is a turn of this test's clock.
    const late = refused.filter(({ afterMs }) => afterMs > 1);
    // Interactive items go before bulk ones that were let in: those alone may be told later.
    assert.ok(
      late.length < 0.02 * ends.length,
      `${late.length} of ${refused.length} were refused after they had waited`,
    );
  });
}

test('a batch that takes ten times what it may makes its followers refused, not late', async (t) => {
  const { ends, deadlineMs } = await overload(t, { seed: 4, noise: 0.1, stallAt: 20 });
  assert.equal(ends.length, 20_000);
  assert.deepEqual([...new Set(ends.map(({ code }) => code))].toSorted(), ['OK', 'RESOURCE_EXHAUSTED']);
  assert.ok(ends.every(({ afterMs }) => afterMs <= deadlineMs - 400));
});
