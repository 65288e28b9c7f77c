import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { PlumbError } from '@plumb/kit/errors';
import * as fc from 'fast-check';
import { Batcher } from './batcher.ts';

interface Call {
  readonly group: string;
  readonly items: readonly number[];
  readonly signal: AbortSignal;
  finish(): void;
  fail(error: unknown): void;
}

function batcher(
  options: { batchSize?: number; concurrency?: number; maxWaiting?: number; lingerMs?: number } = {},
) {
  const calls: Call[] = [];
  const made = new Batcher<string, number, string>({
    batchSize: options.batchSize ?? 4,
    lingerMs: options.lingerMs ?? 0,
    concurrency: options.concurrency ?? 1,
    maxWaiting: options.maxWaiting ?? 100,
    keyOf: (group) => group,
    now: () => 0,
    run: (group, items, signal) => {
      const { promise, resolve, reject } = Promise.withResolvers<string[]>();
      calls.push({
        group,
        items,
        signal,
        finish: () => {
          resolve(items.map((item) => `${group}${item}`));
        },
        fail: reject,
      });
      return promise;
    },
  });
  const bulk = (group: string, item: number) => made.submit(group, item, { priority: 'bulk' });
  return {
    made,
    calls,
    bulk,
    ask: (group: string, item: number) => made.submit(group, item, { priority: 'interactive' }),
  };
}

const shape = (calls: readonly Call[]) => calls.map(({ group, items }) => [group, ...items]);
const settled = async (...promises: Promise<unknown>[]): Promise<void> => {
  await Promise.allSettled(promises);
};

test('interactive items come first and bulk items of their group ride along', async () => {
  const { calls, bulk, ask } = batcher();
  const all = [
    bulk('x', 0),
    bulk('a', 1),
    bulk('a', 2),
    bulk('a', 3),
    bulk('a', 4),
    bulk('b', 5),
    ask('b', 6),
  ];
  assert.deepEqual(shape(calls), [['x', 0]]);
  calls[0]?.finish();
  await settled(...all.slice(0, 1));
  calls[1]?.finish();
  await settled(...all.slice(6));
  assert.deepEqual(shape(calls), [
    ['x', 0],
    ['b', 6, 5],
    ['a', 1, 2, 3, 4],
  ]);
  calls[2]?.finish();
  assert.deepEqual(await Promise.all(all), ['x0', 'a1', 'a2', 'a3', 'a4', 'b5', 'b6']);
});

test('a second batch starts beside the first only when it is full', () => {
  const { calls, bulk } = batcher({ batchSize: 2, concurrency: 2 });
  void bulk('a', 1);
  void bulk('a', 2);
  assert.deepEqual(shape(calls), [['a', 1]]);
  void bulk('a', 3);
  assert.deepEqual(shape(calls), [
    ['a', 1],
    ['a', 2, 3],
  ]);
});

test('an item that was given up takes no place', async () => {
  const { made, calls, bulk } = batcher();
  void bulk('a', 0);
  const controller = new AbortController();
  const given = made.submit('a', 1, { priority: 'bulk', signal: controller.signal });
  void bulk('a', 2);
  controller.abort();
  await assert.rejects(given, (error: PlumbError) => error.code === 'CANCELLED');
  assert.equal(made.waiting, 1);
  assert.equal(calls[0]?.signal.aborted, false);
});

test('a batch is aborted when nobody wants any of it', async () => {
  const { made, calls } = batcher();
  const controller = new AbortController();
  const given = made.submit('a', 1, { priority: 'interactive', signal: controller.signal });
  controller.abort();
  await settled(given);
  assert.equal(calls[0]?.signal.aborted, true);
});

test('an error reaches every item of its batch and no other', async () => {
  const { calls, bulk } = batcher({ batchSize: 2 });
  const [a, b, c] = [bulk('a', 1), bulk('a', 2), bulk('a', 3)];
  calls[0]?.fail(new Error('broken'));
  await assert.rejects(a, /broken/);
  calls[1]?.finish();
  assert.deepEqual(await Promise.all([b, c]), ['a2', 'a3']);
});

test('refuses more than it may hold, and everything once it is closed', async () => {
  const { made, calls, bulk } = batcher({ maxWaiting: 1 });
  const running = bulk('a', 1);
  const waiting = bulk('a', 2);
  await assert.rejects(
    bulk('a', 3),
    (error: PlumbError) => error.code === 'RESOURCE_EXHAUSTED' && error.retryable,
  );
  const closed = made.close();
  await assert.rejects(waiting, (error: PlumbError) => error.reason === 'SHUTTING_DOWN');
  calls[0]?.finish();
  await closed;
  assert.equal(await running, 'a1');
  await assert.rejects(bulk('a', 4), (error: PlumbError) => error.reason === 'SHUTTING_DOWN');
});

test('whatever is submitted, each item gets its own result once and no batch is too large or mixed', async () => {
  const item = fc.record({ group: fc.constantFrom('a', 'b', 'c'), interactive: fc.boolean() });
  await fc.assert(
    fc.asyncProperty(
      fc.array(item, { maxLength: 40 }),
      fc.integer({ min: 1, max: 5 }),
      async (items, batchSize) => {
        const sizes: number[] = [];
        const made = new Batcher<string, { group: string; index: number }, number>({
          batchSize,
          lingerMs: 0,
          concurrency: 2,
          maxWaiting: 100,
          keyOf: (group) => group,
          run: async (group, members) => {
            sizes.push(members.length);
            await Promise.resolve();
            assert.ok(members.every((member) => member.group === group));
            return members.map(({ index }) => index);
          },
        });
        const results = await Promise.all(
          items.map(({ group, interactive }, index) =>
            made.submit(group, { group, index }, { priority: interactive ? 'interactive' : 'bulk' }),
          ),
        );
        assert.deepEqual(results, [...items.keys()]);
        assert.ok(sizes.every((size) => size <= batchSize));
        assert.equal(
          sizes.reduce((a, b) => a + b, 0),
          items.length,
        );
      },
    ),
  );
});
