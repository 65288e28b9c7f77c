import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { context, trace } from '@opentelemetry/api';
import { dataLoss, PlumbError, resourceExhausted, toStatus, unavailable } from '@plumb/kit/errors';
import { createServer } from '@plumb/kit/rpc';
import type { Implementation } from '@plumb/kit/rpc';
import { startTelemetry } from '@plumb/kit/telemetry';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { ScoredItem } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { connectReward } from './index.ts';
import type { RewardClient } from './index.ts';

type Rewards = Implementation<typeof RewardService>;

/** A reward service over real gRPC, with the handlers that a test is about. */
async function serve(t: TestContext, handlers: Partial<Rewards>): Promise<RewardClient> {
  const server = createServer();
  const refuse = () => {
    throw unavailable('not part of this test');
  };
  const others = Object.fromEntries(RewardService.methods.map(({ localName }) => [localName, refuse]));
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- every method is there by its name
  server.add(RewardService, { ...others, ...handlers } as unknown as Rewards);
  const { address } = await server.listen();
  const client = await connectReward({ address, retry: { firstDelayMs: 1, limit: 4 } });
  t.after(async () => {
    client.close();
    await server.stop({ deadlineMs: 0 });
  });
  return client;
}

test('a call is tried again while that may help, and waits as long as it is told', async (t) => {
  const at: number[] = [];
  const client = await serve(t, {
    score: ({ items }) => {
      at.push(performance.now());
      if (at.length === 1) throw resourceExhausted('full', { retryAfterMs: 300 });
      if (at.length === 2) throw unavailable('restarting');
      return { items: items.map(({ id }) => ({ id })) };
    },
  });
  const items = await client.score({ items: [{ id: 'a' }] });
  assert.deepEqual(
    items.map(({ id }) => id),
    ['a'],
  );
  const [first = 0, second = 0] = at;
  assert.equal(at.length, 3);
  assert.ok(second - first >= 299, `it came back after ${second - first} ms`);
});

test('what cannot succeed is not tried again, and attempts have an end', async (t) => {
  let calls = 0;
  let reason: 'INVALID_FIELD' | 'QUOTA_EXHAUSTED' | 'OVERLOADED' = 'INVALID_FIELD';
  const client = await serve(t, {
    score: () => {
      calls += 1;
      throw new PlumbError({
        code: reason === 'INVALID_FIELD' ? 'INVALID_ARGUMENT' : 'RESOURCE_EXHAUSTED',
        reason,
        message: 'no',
      });
    },
  });
  await assert.rejects(client.score({}), { code: 'INVALID_ARGUMENT', reason: 'INVALID_FIELD' });
  assert.equal(calls, 1);
  reason = 'QUOTA_EXHAUSTED';
  await assert.rejects(client.score({}), { code: 'RESOURCE_EXHAUSTED' });
  assert.equal(calls, 2);
  reason = 'OVERLOADED';
  await assert.rejects(client.score({}), { code: 'RESOURCE_EXHAUSTED' });
  assert.equal(calls, 7);
});

test('the deadline holds for all attempts and the pauses between them', async (t) => {
  const client = await serve(t, {
    score: () => {
      throw resourceExhausted('full', { retryAfterMs: 600_000 });
    },
  });
  await assert.rejects(client.score({}, { deadlineMs: 200 }), { code: 'DEADLINE_EXCEEDED' });
  await assert.rejects(client.score({}, { signal: AbortSignal.abort() }), { code: 'CANCELLED' });
});

test('a stream that breaks again and again answers every item once', async (t) => {
  const count = 500;
  let opened = 0;
  const client = await serve(t, {
    async *scoreStream(requests) {
      opened += 1;
      let served = 0;
      for await (const { item } of requests) {
        // Every eighth answer is lost with its stream.
        if (++served % 8 === 0 && opened < 20) throw unavailable('the pod is gone');
        yield { item: { id: item?.id ?? '' } };
      }
    },
  });
  const ids: string[] = [];
  const items = Array.from({ length: count }, (_, index) => ({ item: { id: `clip-${index}` } }));
  for await (const { id } of client.scoreStream(items, { window: 16 })) ids.push(id);
  assert.equal(opened, 20);
  assert.equal(ids.length, count);
  assert.deepEqual(new Set(ids), new Set(items.map(({ item }) => item.id)));
});

test('items are taken only as fast as results are, and not beyond the window', async (t) => {
  let taken = 0;
  let most = 0;
  let answered = 0;
  const client = await serve(t, {
    async *scoreStream(requests) {
      for await (const { item } of requests) yield { item: { id: item?.id ?? '' } };
    },
  });
  const items = function* () {
    for (; taken < 100; taken++) {
      most = Math.max(most, taken - answered);
      yield { item: { id: String(taken) } };
    }
  };
  for await (const item of client.scoreStream(items(), { window: 8 })) {
    assert.ok(item.id !== '');
    answered += 1;
  }
  assert.equal(answered, 100);
  assert.ok(most <= 9, `${most} were under way`);
});

test('a stream tells its own items from those that cannot be', async (t) => {
  const client = await serve(t, {
    // oxlint-disable-next-line require-yield -- never answers
    async *scoreStream(requests) {
      for await (const request of requests) void request;
    },
  });
  const read = async (items: readonly { item: { id: string } }[]): Promise<void> => {
    for await (const item of client.scoreStream(items)) void item;
  };
  await assert.rejects(read([{ item: { id: '' } }]), { code: 'INVALID_ARGUMENT' });
  await assert.rejects(read([{ item: { id: 'a' } }, { item: { id: 'a' } }]), /'a' is under way already/);
});

/** Outcomes by reward: a number is a score. */
const outcomesOf = (values: Readonly<Record<string, number | PlumbError>>) =>
  Object.entries(values).map(([reward, value]) => ({
    reward,
    outcome:
      typeof value === 'number'
        ? { case: 'score' as const, value: { value } }
        : { case: 'error' as const, value: { status: toStatus(value), retryable: value.retryable } },
  }));
const told = ({ outcomes }: ScoredItem): unknown[] =>
  outcomes.map(({ reward, outcome }) => [
    reward,
    outcome.case === 'score' ? outcome.value.value : outcome.value?.status?.message,
  ]);
const busy = resourceExhausted('busy', { retryAfterMs: 20 });
const broken = dataLoss('broken');

test('what may come out otherwise is asked for again: those items and rewards only', async (t) => {
  const asked: unknown[] = [];
  const client = await serve(t, {
    score: ({ items, rewards }) => {
      asked.push([items.map(({ id }) => id), rewards]);
      const first = asked.length === 1;
      return {
        items: items.map(({ id }) => ({
          id,
          outcomes: outcomesOf(
            Object.fromEntries(
              rewards.map((reward) => {
                if (id === 'broken') return [reward, broken];
                return [
                  reward,
                  reward === 'slow' && (id === 'never' || (id === 'later' && first)) ? busy : 1,
                ];
              }),
            ),
          ),
        })),
      };
    },
  });
  const items = ['good', 'later', 'broken', 'never'].map((id) => ({ id }));
  const scored = await client.score({ items, rewards: ['quick', 'slow'] });
  assert.deepEqual(
    scored.map((item) => [item.id, ...told(item)]),
    [
      ['good', ['quick', 1], ['slow', 1]],
      ['later', ['quick', 1], ['slow', 1]],
      ['broken', ['quick', 'broken'], ['slow', 'broken']],
      ['never', ['quick', 1], ['slow', 'busy']],
    ],
  );
  assert.deepEqual(asked, [
    [
      ['good', 'later', 'broken', 'never'],
      ['quick', 'slow'],
    ],
    [['later', 'never'], ['slow']],
    ...Array.from({ length: 3 }, () => [['never'], ['slow']]),
  ]);
});

test('nothing is asked for again that could not be answered in time, and a failure then costs no score', async (t) => {
  let calls = 0;
  const client = await serve(t, {
    score: ({ items }) => {
      calls += 1;
      if (calls === 3)
        throw new PlumbError({ code: 'PERMISSION_DENIED', reason: 'ACCESS_DENIED', message: 'no more' });
      const wait = resourceExhausted('busy', { retryAfterMs: calls === 1 ? 600_000 : 1 });
      return { items: items.map(({ id }) => ({ id, outcomes: outcomesOf({ a: 1, b: wait }) })) };
    },
  });
  const [soon] = await client.score({ items: [{ id: 'x' }], rewards: ['a', 'b'] }, { deadlineMs: 60_000 });
  assert.deepEqual(
    [calls, soon && told(soon)],
    [
      1,
      [
        ['a', 1],
        ['b', 'busy'],
      ],
    ],
  );
  const [denied] = await client.score({ items: [{ id: 'x' }], rewards: ['a', 'b'] });
  assert.deepEqual(
    [calls, denied && told(denied)],
    [
      3,
      [
        ['a', 1],
        ['b', 'no more'],
      ],
    ],
  );
});

test('a stream asks for unfinished items again, also after its last one', async (t) => {
  const seen = new Map<string, number>();
  const client = await serve(t, {
    async *scoreStream(requests) {
      for await (const { item, rewards } of requests) {
        const id = item?.id ?? '';
        const times = (seen.get(id) ?? 0) + 1;
        seen.set(id, times);
        assert.deepEqual(rewards, times === 1 ? ['a', 'b'] : ['b']);
        const open = id.endsWith('7') && times < 3;
        const outcomes = outcomesOf({ ...(times === 1 ? { a: times } : {}), b: open ? busy : times });
        yield { item: { id, outcomes } };
      }
    },
  });
  const items = Array.from({ length: 40 }, (_, at) => ({ rewards: ['a', 'b'], item: { id: String(at) } }));
  const scored = new Map<string, unknown>();
  // A window smaller than the unfinished items: they go out again before the source has ended.
  for await (const item of client.scoreStream(items, { window: 2 })) scored.set(item.id, told(item));
  assert.equal(scored.size, 40);
  for (const [id, values] of scored) {
    assert.deepEqual(values, [
      ['a', 1],
      ['b', id.endsWith('7') ? 3 : 1],
    ]);
  }
});

test('a stream has a deadline, when it is given one', async (t) => {
  const client = await serve(t, {
    // oxlint-disable-next-line require-yield -- never answers
    async *scoreStream(requests) {
      for await (const request of requests) void request;
      await new Promise(() => undefined);
    },
  });
  await assert.rejects(
    async () => {
      for await (const item of client.scoreStream([{ item: { id: 'a' } }], { deadlineMs: 200 })) void item;
    },
    { code: 'DEADLINE_EXCEEDED', message: 'the stream had not ended within 200 ms' },
  );
});

test('a call belongs to the trace that is active where it is made', async (t) => {
  const telemetry = await startTelemetry({ service: 'client-test', version: '0' });
  t.after(() => telemetry.shutdown());
  let traceparent: unknown;
  const client = await serve(t, {
    listRewards: (_request, { metadata }) => {
      traceparent = metadata.get('traceparent')[0];
      return {};
    },
  });
  const span = trace.getTracer('test').startSpan('caller');
  await context.with(trace.setSpan(context.active(), span), async () => await client.listRewards());
  span.end();
  assert.match(String(traceparent), new RegExp(`^00-${span.spanContext().traceId}-`));
});
