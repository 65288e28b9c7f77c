import { context, SpanKind, trace } from '@opentelemetry/api';
import type { DescMessage, MessageShape } from '@bufbuild/protobuf';
import { ATTR_MESSAGING_BATCH_MESSAGE_COUNT } from '@opentelemetry/semantic-conventions/incubating';
import { invalidArgument } from '../errors/shorthand.ts';
import { currentCarrier, linkTo } from '../telemetry/carrier.ts';
import { recordError, startSpan } from '../telemetry/spans.ts';
import type { Connection } from './connection.ts';
import { defaultAckWaitMs, FinishedMessages, takeCharge } from './delivery.ts';
import type { Delivery, DeliveryPolicy, InWork } from './delivery.ts';
import { busMetrics, destinationAttributes, scope } from './message-telemetry.ts';
import { startPump } from './pump.ts';
import type { Consumption } from './pump.ts';

export interface ConsumeOptions<M extends DescMessage> extends DeliveryPolicy<M> {
  /** Messages in work at once in this process; 16 by default. */
  readonly maxInFlight?: number;
  /** Stops the consumption like `stop()` when it aborts. */
  readonly signal?: AbortSignal | undefined;
}

/** Returning acknowledges; throwing decides by the error's type, see `consume`. */
export type MessageHandler<M extends DescMessage> = (
  message: MessageShape<M>,
  delivery: Delivery,
) => Promise<void> | void;

export interface ConsumeBatchesOptions<M extends DescMessage> extends DeliveryPolicy<M> {
  readonly maxBatch: number;
  /** How long the first message of a batch waits for others, in milliseconds. */
  readonly maxWaitMs: number;
  /** Batches handled at once; 1 by default, for handlers that keep a machine busy by themselves. */
  readonly concurrency?: number;
  /** Messages held at once, waiting ones too; by default one batch more than are handled, so that none is waited for. */
  readonly maxInFlight?: number;
  readonly signal?: AbortSignal | undefined;
}

/** One message of a batch. */
export interface BatchItem<M extends DescMessage> {
  readonly message: MessageShape<M>;
  readonly delivery: Delivery;
}

/** Nothing for done, or the error that this message alone failed with. */
export type BatchOutcome = undefined | { readonly error: unknown };

/** Returns an outcome for each item, in their order. A throw fails all of them. */
export type BatchHandler<M extends DescMessage> = (
  items: readonly BatchItem<M>[],
  signal: AbortSignal,
) => Promise<readonly BatchOutcome[]>;

type RestoreStreams = () => Promise<void>;

/**
 * Consumes a subject through a durable consumer that all workers of the kind share. The handler's end decides: returning
 * acknowledges; a retryable error (or CANCELLED) has the message delivered again after a growing pause; any other error,
 * or a retryable one too often, makes it a dead letter. Delivery is at least once: handlers must be idempotent by the
 * message's id.
 */
export async function consume<M extends DescMessage>(
  connection: Connection,
  restoreStreams: RestoreStreams,
  options: ConsumeOptions<M>,
  handler: MessageHandler<M>,
): Promise<Consumption> {
  const maxInFlight = positive('maxInFlight', options.maxInFlight ?? 16);
  const finished = new FinishedMessages();
  return await startPump(
    connection,
    { ...options, maxInFlight, ackWaitMs: options.ackWaitMs ?? defaultAckWaitMs, restoreStreams },
    async (delivered, abandoned) => {
      const item = await takeCharge(connection, options, finished, delivered, abandoned);
      if (item === undefined) return;
      item.begin();
      try {
        await context.with(item.delivery.context, async () => {
          await handler(item.message, item.delivery);
        });
      } catch (error) {
        await item.settle(failure(error));
        return;
      }
      await item.settle();
    },
  );
}

/** Like `consume`, with a handler that takes up to `maxBatch` messages at once. */
export async function consumeBatches<M extends DescMessage>(
  connection: Connection,
  restoreStreams: RestoreStreams,
  options: ConsumeBatchesOptions<M>,
  handler: BatchHandler<M>,
): Promise<Consumption> {
  const maxBatch = positive('maxBatch', options.maxBatch);
  const concurrency = positive('concurrency', options.concurrency ?? 1);
  const maxInFlight = positive('maxInFlight', options.maxInFlight ?? maxBatch * (concurrency + 1));
  const finished = new FinishedMessages();
  const waiting: { item: InWork<M>; since: number; settled: () => void }[] = [];
  let handling = 0;
  let timer: NodeJS.Timeout | undefined;

  /** Begins every batch that is full or has waited long enough, as far as the concurrency goes. */
  const dispatch = (): void => {
    clearTimeout(timer);
    timer = undefined;
    while (handling < concurrency) {
      const oldest = waiting[0];
      if (oldest === undefined) return;
      const leftMs = oldest.since + options.maxWaitMs - performance.now();
      // All that may be held is here: waiting longer would bring nothing.
      const full = waiting.length >= Math.min(maxBatch, maxInFlight);
      if (!full && leftMs > 0 && !stopping) {
        timer = setTimeout(dispatch, leftMs);
        return;
      }
      handling += 1;
      void handle(waiting.splice(0, maxBatch));
    }
  };
  let stopping = false;

  const handle = async (batch: typeof waiting): Promise<void> => {
    const items = batch.map(({ item }) => item);
    const outcomes = await runBatch(options, handler, items);
    handling -= 1;
    dispatch();
    await Promise.all(
      batch.map(async ({ item, settled }, index) => {
        const outcome = outcomes[index];
        await (outcome === undefined ? item.settle() : item.settle(failure(outcome.error)));
        settled();
      }),
    );
  };

  const pump = await startPump(
    connection,
    { ...options, maxInFlight, ackWaitMs: options.ackWaitMs ?? defaultAckWaitMs, restoreStreams },
    async (delivered, abandoned) => {
      const item = await takeCharge(connection, options, finished, delivered, abandoned);
      if (item === undefined) return;
      const { promise, resolve } = Promise.withResolvers<undefined>();
      waiting.push({
        item,
        since: performance.now(),
        settled: () => {
          resolve(undefined);
        },
      });
      dispatch();
      await promise;
    },
  );
  // What has been received is handled before the end, in batches that wait for nobody.
  const hurry = (): void => {
    stopping = true;
    dispatch();
  };
  options.signal?.addEventListener('abort', hurry, { once: true });
  return {
    done: pump.done,
    stop: async (stopOptions) => {
      const stopped = pump.stop(stopOptions);
      hurry();
      await stopped;
    },
  };
}

/** Runs the handler in a span of its own that links to the items', and theirs to it. Never rejects. */
async function runBatch<M extends DescMessage>(
  options: ConsumeBatchesOptions<M>,
  handler: BatchHandler<M>,
  items: readonly InWork<M>[],
): Promise<readonly BatchOutcome[]> {
  const attributes = destinationAttributes('process', options.subject, options.durable);
  busMetrics.batchSize.record(items.length, attributes);
  const { span, context: inside } = startSpan(trace.getTracer(scope), `process batch ${options.subject}`, {
    kind: SpanKind.CONSUMER,
    root: true,
    attributes: { ...attributes, [ATTR_MESSAGING_BATCH_MESSAGE_COUNT]: items.length },
  });
  const batchLink = linkTo(currentCarrier(inside));
  for (const item of items) {
    item.begin(batchLink === undefined ? [] : [batchLink]);
    const own = linkTo(currentCarrier(item.delivery.context));
    if (own !== undefined) span.addLink(own);
  }
  const signal = AbortSignal.any(items.map(({ delivery }) => delivery.signal));
  try {
    const outcomes = await context.with(inside, () => handler(items, signal));
    if (outcomes.length !== items.length) {
      throw new TypeError(`the batch handler gave ${outcomes.length} outcomes for ${items.length} messages`);
    }
    return outcomes;
  } catch (error) {
    recordError(span, error);
    return items.map(() => ({ error }));
  } finally {
    span.end();
  }
}

/** `throw undefined` is a failure too. */
function failure(thrown: unknown): unknown {
  return thrown ?? new TypeError('the handler threw nothing');
}

function positive(field: string, value: number): number {
  if (!Number.isInteger(value) || value < 1)
    throw invalidArgument(field, `is ${value}; give a whole number from 1`);
  return value;
}
