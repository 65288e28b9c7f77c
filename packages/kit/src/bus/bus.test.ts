import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { context } from '@opentelemetry/api';
import { fromBinary } from '@bufbuild/protobuf';
import { BytesValueSchema, StringValueSchema } from '@bufbuild/protobuf/wkt';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { SampleScoredSchema, ScoringTaskSchema } from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import { z } from 'zod';
import { Connection } from './connection.ts';
import { connectBus, jsonCodec, messageCodec, streamNames, subjects } from '../bus.ts';
import type { Bus, ConsumeOptions, StreamSpec } from '../bus.ts';
import { invalidArgument, PlumbError, unavailable } from '../errors.ts';
import { startTelemetry, tracer, withSpan } from '../telemetry.ts';
import type { SpanRecord } from '../telemetry.ts';
import { isCollected } from '../testing/garbage.ts';
import { startNatsServer } from '../testing/nats-server.ts';
import type { TestNatsServer } from '../testing/nats-server.ts';

let nats: TestNatsServer;
let bus: Bus;

before(async () => {
  nats = await startNatsServer();
  bus = await connectBus({ url: nats.url, name: 'kit-test' });
  await bus.ensureStreams();
});

after(async () => {
  await bus.close();
  await nats.stop();
});

function isError(code: string, reason?: string) {
  return (error: unknown): true => {
    assert.ok(error instanceof PlumbError, `not a PlumbError: ${String(error)}`);
    assert.equal(error.code, code, error.message);
    if (reason !== undefined) assert.equal(error.reason, reason);
    return true;
  };
}

/** Polls a condition that only the broker knows the moment of. */
async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await delay(10);
}

let unique = 0;

/** A work queue of its own, so that tests do not meet. */
async function queue(spec: Partial<StreamSpec> = {}): Promise<ConsumeOptions<typeof StringValueSchema>> {
  unique += 1;
  const name = `TEST_${unique}`;
  const subject = `test.queue${unique}.work`;
  await bus.ensureStreams([
    {
      name,
      description: 'of a test',
      subjects: [`test.queue${unique}.>`],
      kind: 'work',
      maxMessages: 10_000,
      maxBytes: 2 ** 22,
      maxAgeMs: 0,
      duplicateWindowMs: 60_000,
      ...spec,
    },
  ]);
  return {
    stream: name,
    durable: 'worker',
    subject,
    schema: StringValueSchema,
    backoffMs: { first: 20, max: 100 },
  };
}

async function say(options: { subject: string }, ...values: string[]): Promise<void> {
  for (const value of values) {
    await bus.publish(options.subject, StringValueSchema, { value }, { id: `${options.subject}-${value}` });
  }
}

async function letters(options: { stream: string }) {
  return (await bus.deadLetters.list({ limit: 1000 })).filter(({ stream }) => stream === options.stream);
}

describe('publish', () => {
  test('the same id is stored once', async () => {
    const message = { sampleId: 's1', runId: 'r1' };
    const first = await bus.publish(subjects.sampleScored, SampleScoredSchema, message, { id: 's1-scored' });
    const second = await bus.publish(subjects.sampleScored, SampleScoredSchema, message, { id: 's1-scored' });
    assert.equal(first.stream, streamNames.events);
    assert.equal(first.duplicate, false);
    assert.deepEqual(second, { ...first, duplicate: true });
  });

  test('a full queue pushes back', async () => {
    const options = await queue({ maxMessages: 2 });
    await say(options, 'a', 'b');
    await assert.rejects(say(options, 'c'), (error) => {
      isError('RESOURCE_EXHAUSTED', 'QUEUE_FULL')(error);
      assert.ok(error instanceof PlumbError && error.retryAfterMs !== undefined && error.retryAfterMs > 0);
      return true;
    });
  });

  test('too large a message is refused with the fix', async () => {
    const value = 'x'.repeat(2 ** 20 + 1);
    await assert.rejects(
      bus.publish((await queue()).subject, StringValueSchema, { value }, { id: 'large' }),
      isError('INVALID_ARGUMENT', 'MESSAGE_TOO_LARGE'),
    );
  });

  test('streams are declared twice without harm, and changed in place', async () => {
    await bus.ensureStreams();
    const options = await queue({ maxMessages: 1 });
    await say(options, 'a');
    unique -= 1;
    await queue({ maxMessages: 2 });
    await say(options, 'b');
  });
});

describe('consume', () => {
  test('a returned handler acknowledges', async (t) => {
    const options = await queue();
    const seen: string[] = [];
    const consumption = await bus.consume(options, ({ value }, delivery) => {
      assert.equal(delivery.id, `${options.subject}-${value}`);
      assert.equal(delivery.deliveries, 1);
      seen.push(value);
    });
    t.after(() => consumption.stop());
    await say(options, 'a', 'b', 'c');
    await until(() => seen.length === 3);
    await consumption.stop();
    assert.deepEqual(await bus.queueDepth(options.stream, 'worker'), {
      waiting: 0,
      inFlight: 0,
      redelivered: 0,
    });
  });

  test('a retryable error has the message delivered again', async (t) => {
    const options = await queue();
    const deliveries: number[] = [];
    const consumption = await bus.consume(options, (_message, delivery) => {
      deliveries.push(delivery.deliveries);
      if (delivery.deliveries < 3) throw unavailable('the model is loading');
    });
    t.after(() => consumption.stop());
    await say(options, 'a');
    await until(() => deliveries.length === 3);
    assert.deepEqual(deliveries, [1, 2, 3]);
    assert.deepEqual(await letters(options), []);
  });

  test('a terminal error makes a dead letter, after `failed`, and replay brings it back', async (t) => {
    const options = await queue();
    const failed: string[] = [];
    let healed = false;
    const done: string[] = [];
    const consumption = await bus.consume(
      {
        ...options,
        failed: async ({ value }, error) => {
          failed.push(`${value} ${error.code}`);
        },
      },
      ({ value }) => {
        if (!healed) throw invalidArgument('value', `is '${value}'`);
        done.push(value);
      },
    );
    t.after(() => consumption.stop());
    await say(options, 'a');
    await until(async () => (await letters(options)).length === 1);
    const [letter] = await letters(options);
    assert.ok(letter !== undefined);
    assert.equal(letter.subject, options.subject);
    assert.equal(letter.id, `${options.subject}-a`);
    assert.equal(letter.consumer, 'worker');
    assert.equal(letter.code, 'INVALID_ARGUMENT');
    assert.equal(letter.reason, 'INVALID_FIELD');
    assert.match(letter.message, /value: is 'a'/);
    assert.equal(letter.deliveries, 1);
    assert.equal(fromBinary(StringValueSchema, letter.data).value, 'a');
    assert.deepEqual(failed, ['a INVALID_ARGUMENT']);

    healed = true;
    await bus.deadLetters.replay(letter.sequence);
    await until(() => done.length === 1);
    assert.deepEqual(await letters(options), []);
    await assert.rejects(bus.deadLetters.replay(letter.sequence), isError('NOT_FOUND'));
  });

  test('a retryable error that stays is a dead letter in the end', async (t) => {
    const options = await queue();
    let runs = 0;
    const consumption = await bus.consume({ ...options, maxDeliveries: 3 }, (_message, { lastDelivery }) => {
      runs += 1;
      assert.equal(lastDelivery, runs === 3);
      throw unavailable('still not there');
    });
    t.after(() => consumption.stop());
    await say(options, 'a');
    await until(async () => (await letters(options)).length === 1);
    assert.equal(runs, 3);
    assert.equal((await letters(options))[0]?.code, 'UNAVAILABLE');
  });

  test('an error of nobody and bytes that do not decode are dead letters', async (t) => {
    const options = await queue();
    const consumption = await bus.consume(options, () => {
      throw new TypeError('x is not a function');
    });
    t.after(() => consumption.stop());
    await say(options, 'a');
    const value = Uint8Array.of(0xff, 0xfe); // no UTF-8, so no StringValue
    await bus.publish(options.subject, BytesValueSchema, { value }, { id: 'not-a-string' });
    await until(async () => (await letters(options)).length === 2);
    const found = await letters(options);
    assert.equal(found.find(({ id }) => id.endsWith('-a'))?.reason, 'UNEXPECTED');
    assert.match(found.find(({ id }) => id.endsWith('-a'))?.message ?? '', /x is not a function/);
    assert.equal(found.find(({ id }) => id === 'not-a-string')?.reason, 'MESSAGE_UNDECODABLE');
  });

  test('never more than maxInFlight at once', async (t) => {
    const options = await queue();
    let now = 0;
    let most = 0;
    let done = 0;
    const three = Promise.withResolvers<undefined>();
    await say(options, ...Array.from({ length: 20 }, (_, i) => String(i)));
    const consumption = await bus.consume({ ...options, maxInFlight: 3 }, async () => {
      now += 1;
      most = Math.max(most, now);
      if (now === 3) three.resolve(undefined);
      await three.promise;
      await delay(1);
      now -= 1;
      done += 1;
    });
    t.after(() => consumption.stop());
    await until(() => done === 20);
    assert.equal(most, 3);
  });

  test('a long handler keeps its message', async (t) => {
    const options = await queue();
    let runs = 0;
    let done = 0;
    // Long enough that a busy machine misses none of the heartbeats in between.
    const consumption = await bus.consume({ ...options, ackWaitMs: 1500 }, async () => {
      runs += 1;
      await delay(4500); // three times the acknowledgement wait
      done += 1;
    });
    t.after(() => consumption.stop());
    await say(options, 'a');
    await until(() => done === 1);
    await consumption.stop();
    assert.equal(runs, 1);
    assert.equal((await bus.queueDepth(options.stream, 'worker')).inFlight, 0);
  });

  test('stop waits for running handlers; what it has to abandon goes back', async (t) => {
    const options = await queue();
    const gate = Promise.withResolvers<undefined>();
    let finished = false;
    const patient = await bus.consume(options, async () => {
      await gate.promise;
      finished = true;
    });
    await say(options, 'a');
    await until(async () => (await bus.queueDepth(options.stream, 'worker')).inFlight === 1);
    const stopped = patient.stop();
    gate.resolve(undefined);
    await stopped;
    await patient.done;
    assert.equal(finished, true);

    await say(options, 'b');
    const entered = Promise.withResolvers<undefined>();
    const stuck = await bus.consume(options, async (_message, { signal }) => {
      entered.resolve(undefined);
      await delay(60_000, undefined, { signal });
    });
    await entered.promise;
    await stuck.stop({ deadlineMs: 20 });
    const again = Promise.withResolvers<string>();
    const next = await bus.consume(options, ({ value }) => {
      again.resolve(value);
    });
    t.after(() => next.stop());
    assert.equal(await again.promise, 'b');
  });

  test('a consumer that somebody deleted is made again', async (t) => {
    const options = await queue();
    const seen: string[] = [];
    const consumption = await bus.consume(options, ({ value }) => {
      seen.push(value);
    });
    t.after(() => consumption.stop());
    await say(options, 'a');
    await until(() => seen.length === 1);
    const connection = await connect({ servers: nats.url });
    await (await jetstreamManager(connection)).consumers.delete(options.stream, 'worker');
    await connection.close();
    await say(options, 'b');
    await until(() => seen.length === 2);
    assert.deepEqual(seen, ['a', 'b']);
  });
});

describe('consumeBatches', () => {
  test('full batches, a partial one after the wait, and an outcome for each', async (t) => {
    const options = await queue();
    await say(options, ...Array.from({ length: 10 }, (_, i) => String(i)));
    const sizes: number[] = [];
    const done = new Set<string>();
    const consumption = await bus.consumeBatches(
      { ...options, maxBatch: 4, maxWaitMs: 50 },
      async (items) => {
        sizes.push(items.length);
        return items.map(({ message, delivery }) => {
          if (message.value === '3' && delivery.deliveries === 1) return { error: unavailable('once') };
          if (message.value === '5') return { error: invalidArgument('value', 'is 5') };
          done.add(message.value);
          return undefined;
        });
      },
    );
    t.after(() => consumption.stop());
    await until(async () => done.size === 9 && (await letters(options)).length === 1);
    assert.equal(sizes[0], 4);
    assert.ok(sizes.every((size) => size <= 4));
    assert.ok(!done.has('5'));
  });

  test('a throw, or too few outcomes, fails all of them', async (t) => {
    const options = await queue();
    await say(options, 'a', 'b');
    const consumption = await bus.consumeBatches(
      { ...options, maxBatch: 2, maxWaitMs: 1000 },
      async () => [],
    );
    t.after(() => consumption.stop());
    await until(async () => (await letters(options)).length === 2);
    assert.ok((await letters(options)).every(({ message }) => message.includes('0 outcomes for 2 messages')));
  });
});

describe('keyValue', () => {
  test('create, update by revision, delete, list', async () => {
    const kv = await bus.keyValue('test-json', jsonCodec(z.object({ n: z.number() })));
    assert.equal(await kv.get('a'), undefined);
    const first = await kv.create('a', { n: 1 });
    await assert.rejects(kv.create('a', { n: 2 }), isError('ALREADY_EXISTS'));
    const second = await kv.update('a', { n: 2 }, first);
    await assert.rejects(kv.update('a', { n: 3 }, first), isError('ABORTED', 'REVISION_CONFLICT'));
    assert.deepEqual(await kv.get('a'), { key: 'a', value: { n: 2 }, revision: second });
    await kv.put('b.c', { n: 4 });
    assert.deepEqual(await kv.keys(), ['a', 'b.c']);
    assert.deepEqual(await kv.keys('b.*'), ['b.c']);
    await kv.delete('a');
    assert.deepEqual(
      (await kv.entries()).map(({ key, value }) => [key, value.n]),
      [['b.c', 4]],
    );
    await kv.create('a', { n: 5 });
    await assert.rejects(kv.put('no spaces', { n: 1 }), isError('INVALID_ARGUMENT'));
  });

  test('messages are values too', async () => {
    const kv = await bus.keyValue('test-proto', messageCodec(StringValueSchema));
    await kv.put('k', { value: 'hello' });
    assert.equal((await kv.get('k'))?.value.value, 'hello');
  });
});

test('one trace from the publisher through the wait to the handler and what it publishes, and to a second try', async (t) => {
  const directory = mkdtempSync(path.join(tmpdir(), 'plumb-kit-'));
  t.after(() => {
    rmSync(directory, { recursive: true });
  });
  const telemetry = await startTelemetry({ service: 'bus-test', version: '0', spanDirectory: directory });
  const one = await queue();
  const many = await queue();
  let handled = 0;
  const first = await bus.consume(one, async ({ value }) => {
    await bus.publish(many.subject, StringValueSchema, { value }, { id: `next-${value}` });
  });
  const second = await bus.consumeBatches({ ...many, maxBatch: 8, maxWaitMs: 10 }, async (items) => {
    for (const { delivery } of items) {
      await context.with(delivery.context, () =>
        withSpan(tracer('test'), 'inside', {}, () => (handled += 1)),
      );
    }
    return items.map(() => undefined);
  });
  await withSpan(tracer('test'), 'origin', {}, () => say(one, 'a'));
  await until(() => handled === 1);
  await first.stop();
  await second.stop();
  const again = await queue();
  let tries = 0;
  const third = await bus.consume({ ...again, backoffMs: { first: 50, max: 50 } }, () => {
    tries += 1;
    if (tries === 1) throw unavailable('not yet');
  });
  await say(again, 'b');
  await until(() => tries === 2);
  await third.stop();
  await telemetry.shutdown();

  const spans = readdirSync(directory)
    .flatMap((name) => readFileSync(path.join(directory, name), 'utf8').trimEnd().split('\n'))
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the lines were written from this type
    .map((line) => JSON.parse(line) as SpanRecord);
  const named = (name: string): SpanRecord =>
    spans.find((span) => span.name === name) ?? assert.fail(`no ${name}`);
  const origin = named('origin');
  const chain = [
    [`send ${one.subject}`, 'origin'],
    [`wait ${one.subject}`, `send ${one.subject}`],
    [`process ${one.subject}`, `send ${one.subject}`],
    [`send ${many.subject}`, `process ${one.subject}`],
    [`wait ${many.subject}`, `send ${many.subject}`],
    [`process ${many.subject}`, `send ${many.subject}`],
    ['inside', `process ${many.subject}`],
  ] as const;
  for (const [name, parent] of chain) {
    assert.equal(named(name).traceId, origin.traceId, name);
    assert.equal(named(name).parentSpanId, named(parent).spanId, name);
  }
  const batch = named(`process batch ${many.subject}`);
  assert.notEqual(batch.traceId, origin.traceId);
  assert.deepEqual(
    batch.links.map(({ spanId }) => spanId),
    [named(`process ${many.subject}`).spanId],
  );
  assert.equal(named(`process ${many.subject}`).links[0]?.spanId, batch.spanId);

  // One that comes again: its second wait is a span of its own, and the failure says that it was retried.
  const both = (name: string): SpanRecord[] =>
    spans.filter((span) => span.name === name).toSorted((a, b) => a.startMs - b.startMs);
  const [firstWait, secondWait] = both(`wait ${again.subject}`);
  const [failed, done] = both(`process ${again.subject}`);
  assert.ok(
    firstWait !== undefined && secondWait !== undefined && failed !== undefined && done !== undefined,
  );
  assert.equal(firstWait.attributes['plumb.message.redelivered'], false);
  assert.equal(secondWait.attributes['plumb.message.redelivered'], true);
  assert.ok(secondWait.startMs >= failed.startMs && secondWait.endMs <= done.startMs + 1);
  assert.equal(failed.attributes['plumb.error.retried'], true);
  assert.equal(failed.attributes['plumb.retry.attempt'], 1);
  assert.equal(done.attributes['plumb.error.retried'], undefined);
});

test('no broker: one error with the URL and the fix', async () => {
  const url = 'nats://127.0.0.1:1';
  await assert.rejects(connectBus({ url, name: 'kit-test', connectTimeoutMs: 200 }), (error) => {
    isError('UNAVAILABLE', 'BROKER_UNAVAILABLE')(error);
    assert.match(error instanceof Error ? error.message : '', /nats:\/\/127\.0\.0\.1:1.*PLUMB_NATS_URL/);
    return true;
  });
});

async function own(t: TestContext): Promise<{ server: TestNatsServer; client: Bus }> {
  const server = await startNatsServer();
  const client = await connectBus({ url: server.url, name: 'kit-test' });
  await client.ensureStreams();
  t.after(async () => {
    await client.close();
    await server.stop();
  });
  return { server, client };
}

test('an operation that is over leaves nothing with the connection', async (t) => {
  const connection = await Connection.open({ url: nats.url, name: 'kit-test-garbage' });
  t.after(async () => connection.close());
  const signal = new AbortController().signal;
  const references = await Promise.all(
    [{}, { deadlineMs: 60_000 }, { signal }, { deadlineMs: 60_000, signal }].map(async (options) => {
      const result = await connection.attempt(
        () => Promise.resolve({ payload: 'of one operation' }),
        options,
      );
      return new WeakRef(result);
    }),
  );
  for (const reference of references) assert.ok(await isCollected(reference));
});

describe('the broker is killed in the middle', () => {
  test('every publication is stored exactly once', async (t) => {
    const { server, client } = await own(t);
    const total = 3000;
    const sequences = new Set<number>();
    let next = 0;
    const publisher = async (): Promise<void> => {
      while (next < total) {
        const sampleId = `s${next++}`;
        const ack = await client.publish(
          subjects.sampleScored,
          SampleScoredSchema,
          { sampleId },
          { id: sampleId },
        );
        sequences.add(ack.sequence);
      }
    };
    const published = Promise.all(Array.from({ length: 32 }, publisher));
    for (const kill of [total / 4, total / 2]) {
      await until(() => sequences.size >= kill);
      await server.kill();
      await server.restart();
    }
    await published;
    assert.equal(sequences.size, total, 'two messages were acknowledged as one');
    const seen = new Set<string>();
    let deliveries = 0;
    const consumption = await client.consume(
      {
        stream: streamNames.events,
        durable: 'ledger',
        subject: subjects.sampleScored,
        schema: SampleScoredSchema,
        maxInFlight: 256,
      },
      ({ sampleId }) => {
        deliveries += 1;
        seen.add(sampleId);
      },
    );
    await until(() => seen.size === total);
    await consumption.stop();
    assert.equal(deliveries, total, 'a message is stored twice');
  });

  test('every task has its effect, once, through two restarts', async (t) => {
    const { server, client } = await own(t);
    const total = 1500;
    const effects = new Map<string, number>();
    const options = {
      stream: streamNames.tasks,
      durable: 'reward',
      subject: subjects.taskScore,
      schema: ScoringTaskSchema,
      maxInFlight: 16,
      ackWaitMs: 2000,
    };
    const consumption = await client.consume(options, async ({ sampleId }) => {
      await delay(1);
      effects.set(sampleId, (effects.get(sampleId) ?? 0) + 1);
    });
    let next = 0;
    const publisher = async (): Promise<void> => {
      while (next < total) {
        const sampleId = `s${next++}`;
        await client.publish(subjects.taskScore, ScoringTaskSchema, { sampleId }, { id: sampleId });
      }
    };
    const published = Promise.all(Array.from({ length: 16 }, publisher));
    for (const kill of [total / 4, total / 2]) {
      await until(() => effects.size >= kill);
      await server.kill();
      await server.restart();
    }
    await published;
    await until(() => effects.size === total);
    await consumption.stop();
    const twice = [...effects].filter(([, runs]) => runs > 1);
    t.diagnostic(`${twice.length} of ${total} tasks ran twice`);
    assert.ok(twice.length <= 3 * 16, 'more tasks ran twice than can have been unconfirmed');
    assert.equal(await client.deadLetters.count(), 0);
  });

  test('a watch goes on, and writes wait for the broker', async (t) => {
    const { server, client } = await own(t);
    const kv = await client.keyValue('models', jsonCodec(z.number()));
    await kv.put('current', 1);
    const abort = new AbortController();
    const seen: (number | undefined)[] = [];
    const watching = (async () => {
      for await (const { value } of kv.watch({ signal: abort.signal })) seen.push(value);
    })();
    await until(() => seen.length === 1);
    await server.kill();
    const written = kv.put('current', 2);
    await server.restart();
    await written;
    await until(() => seen.length === 2);
    await kv.delete('current');
    await until(() => seen.length === 3);
    abort.abort();
    await watching;
    assert.deepEqual(seen, [1, 2, undefined]);
  });

  test('a bus that is closed under a handler breaks nothing', async (t) => {
    const { server } = await own(t);
    const client = await connectBus({ url: server.url, name: 'kit-test' });
    const gate = Promise.withResolvers<undefined>();
    const entered = Promise.withResolvers<undefined>();
    const consumption = await client.consume(
      {
        stream: streamNames.tasks,
        durable: 'reward',
        subject: subjects.taskScore,
        schema: ScoringTaskSchema,
      },
      async () => {
        entered.resolve(undefined);
        await gate.promise;
      },
    );
    await client.publish(subjects.taskScore, ScoringTaskSchema, {}, { id: 'x' });
    await entered.promise;
    await client.close();
    gate.resolve(undefined);
    await consumption.done;
    await assert.rejects(
      client.publish(subjects.taskScore, ScoringTaskSchema, {}, { id: 'y' }),
      isError('UNAVAILABLE', 'SHUTTING_DOWN'),
    );
  });

  test('a publication that is given up says so', async (t) => {
    const { server, client } = await own(t);
    await server.kill();
    const signal = AbortSignal.timeout(200);
    await assert.rejects(
      client.publish(subjects.sampleScored, SampleScoredSchema, {}, { id: 'x', signal }),
      isError('DEADLINE_EXCEEDED'),
    );
  });
});
