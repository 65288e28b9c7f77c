import { context, SpanKind, trace } from '@opentelemetry/api';
import type { Context, Link, Span } from '@opentelemetry/api';
import { fromBinary } from '@bufbuild/protobuf';
import type { DescMessage, MessageShape } from '@bufbuild/protobuf';
import type { JsMsg } from '@nats-io/jetstream';
import { PlumbError } from '../errors/plumb-error.ts';
import { contextFromCarrier } from '../telemetry/carrier.ts';
import { logger } from '../telemetry/logger.ts';
import type { Logger } from '../telemetry/logger.ts';
import { recordError, startSpan } from '../telemetry/spans.ts';
import { withWork } from '../telemetry/work-ids.ts';
import type { Connection } from './connection.ts';
import { writeDeadLetter } from './dead-letters.ts';
import { carrierOf, headerOf, idHeader } from './headers.ts';
import {
  busMetrics,
  destinationAttributes,
  domainAttributes,
  domainIds,
  messageAttributes,
  scope,
} from './message-telemetry.ts';

/** What a handler knows of the delivery of its message. */
export interface Delivery {
  readonly id: string;
  readonly subject: string;
  /** 1 at the first time. */
  readonly deliveries: number;
  /** True if a retryable failure ends among the dead letters too. */
  readonly lastDelivery: boolean;
  readonly publishedAt: Date;
  /** Aborts when the service stops and can wait no longer. */
  readonly signal: AbortSignal;
  readonly logger: Logger;
  /** The message's own trace. Handlers run in it; those of batches use `context.with(delivery.context, ...)`. */
  readonly context: Context;
}

/** What decides over a message's failures. */
export interface DeliveryPolicy<M extends DescMessage> {
  readonly stream: string;
  readonly durable: string;
  readonly subject: string;
  readonly schema: M;
  /** How long the broker waits for a sign of life before it delivers again, in milliseconds; 30 s by default. */
  readonly ackWaitMs?: number;
  /** A message that failed this often becomes a dead letter; 10 by default (about two minutes of tries). */
  readonly maxDeliveries?: number;
  /** Pause before a message is delivered again: doubles from `first` to `max`. 500 ms and 30 s by default. */
  readonly backoffMs?: { readonly first: number; readonly max: number };
  /**
   * Runs before a message becomes a dead letter, for example to tell others that the sample failed. May run twice. If it
   * throws, the message stays and is delivered again.
   */
  readonly failed?: (message: MessageShape<M>, error: PlumbError, delivery: Delivery) => Promise<void>;
}

/** One message in work. */
export interface InWork<M extends DescMessage> {
  readonly message: MessageShape<M>;
  readonly delivery: Delivery;
  /** Ends the wait and begins the processing, in the traces and the metrics. */
  begin(links?: readonly Link[]): void;
  /** Acknowledges, or deals with the error. Rejects only when the connection was closed before. */
  settle(error?: unknown): Promise<void>;
}

export const defaultAckWaitMs = 30_000;
const defaultMaxDeliveries = 10;
const defaultBackoff = { first: 500, max: 30_000 };

const mostKept = 8192;

/** Messages this process has finished, or put back. A broker that was killed may deliver an acknowledged one again. */
export class FinishedMessages {
  readonly #keys = new Set<string>();
  /** Times at which messages were put back, in milliseconds since 1970. */
  readonly #putBackAt = new Map<string, number>();

  static key(message: JsMsg): string {
    return `${message.seq} ${headerOf(message.headers, idHeader) ?? ''}`;
  }

  has(message: JsMsg): boolean {
    return this.#keys.has(FinishedMessages.key(message));
  }

  add(message: JsMsg): void {
    this.#keys.add(FinishedMessages.key(message));
    // Far more than can be unconfirmed at once; a few hundred KiB.
    if (this.#keys.size > mostKept) for (const oldest of this.#keys) return void this.#keys.delete(oldest);
  }

  putBack(message: JsMsg): void {
    this.#putBackAt.set(FinishedMessages.key(message), Date.now());
    if (this.#putBackAt.size > mostKept) {
      for (const oldest of this.#putBackAt.keys()) return void this.#putBackAt.delete(oldest);
    }
  }

  /** When this process put the message back last; undefined if it was another one, or died with it. */
  putBackAt(message: JsMsg): number | undefined {
    return this.#putBackAt.get(FinishedMessages.key(message));
  }
}

/**
 * Takes charge of a delivered message: keeps it alive while it waits and works, and settles it by its outcome. Undefined
 * when there is nothing to do for a handler (finished before, not decodable, delivered too often); it is settled then.
 */
export async function takeCharge<M extends DescMessage>(
  connection: Connection,
  policy: DeliveryPolicy<M>,
  finished: FinishedMessages,
  delivered: JsMsg,
  signal: AbortSignal,
): Promise<InWork<M> | undefined> {
  const { deliveryCount, timestampNanos } = delivered.info;
  const maxDeliveries = policy.maxDeliveries ?? defaultMaxDeliveries;
  const id = headerOf(delivered.headers, idHeader) ?? `${policy.stream}-${delivered.seq}`;
  const log = logger('bus').child({ subject: delivered.subject, messageId: id, deliveries: deliveryCount });
  if (finished.has(delivered)) {
    await acknowledge(connection, delivered, log);
    return undefined;
  }
  const destination = destinationAttributes('process', delivered.subject, policy.durable);
  busMetrics.inFlight.add(1, destination);
  if (deliveryCount > 1) busMetrics.redeliveries.add(1, destination);
  const heartbeat = setInterval(
    () => {
      if (!connection.nats.isClosed()) delivered.working();
    },
    (policy.ackWaitMs ?? defaultAckWaitMs) / 3,
  );
  const producer = contextFromCarrier(carrierOf(delivered.headers));
  const publishedAt = new Date(Math.min(timestampNanos / 1e6, Date.now()));
  const attributes = {
    ...messageAttributes({
      operation: 'process',
      subject: delivered.subject,
      id,
      bytes: delivered.data.byteLength,
      consumer: policy.durable,
    }),
    'plumb.message.deliveries': deliveryCount,
  };

  let message: MessageShape<M> | undefined;
  let process: { span: Span; context: Context; startedMs: number } | undefined;
  /**
   * Since when a message that comes again has waited: since this process put it back, or since the broker heard nothing
   * more from whoever had it, which is the wait for the acknowledgement.
   */
  const waitingSince = (): Date => {
    const silentMs = Date.now() - (policy.ackWaitMs ?? defaultAckWaitMs);
    return new Date(Math.max(publishedAt.getTime(), finished.putBackAt(delivered) ?? silentMs));
  };
  const begin = (links: readonly Link[] = []): void => {
    const domain = message === undefined ? {} : domainAttributes(message);
    const wait = startSpan(trace.getTracer(scope), `wait ${delivered.subject}`, {
      kind: SpanKind.CONSUMER,
      parent: producer,
      startTime: deliveryCount === 1 ? publishedAt : waitingSince(),
      attributes: {
        ...attributes,
        ...domain,
        ...destinationAttributes('receive', delivered.subject, policy.durable),
        'plumb.message.redelivered': deliveryCount > 1,
      },
    });
    wait.span.end();
    if (deliveryCount === 1) {
      busMetrics.waitSeconds.record((Date.now() - publishedAt.getTime()) / 1000, destination);
    }
    const started = startSpan(trace.getTracer(scope), `process ${delivered.subject}`, {
      kind: SpanKind.CONSUMER,
      parent: producer,
      attributes: { ...attributes, ...domain },
      links,
    });
    process = {
      span: started.span,
      context: withWork(message === undefined ? {} : domainIds(message), started.context),
      startedMs: performance.now(),
    };
  };

  const delivery: Delivery = {
    id,
    subject: delivered.subject,
    deliveries: deliveryCount,
    lastDelivery: deliveryCount >= maxDeliveries,
    publishedAt,
    signal,
    logger: log,
    get context() {
      return process?.context ?? producer;
    },
  };

  const settle = async (thrown?: unknown): Promise<void> => {
    try {
      if (process === undefined) begin();
      await context.with(delivery.context, async () => {
        if (thrown === undefined) {
          finished.add(delivered);
          await acknowledge(connection, delivered, log);
        } else {
          await settleFailure(PlumbError.from(thrown), thrown);
        }
      });
    } finally {
      clearInterval(heartbeat);
      busMetrics.inFlight.add(-1, destination);
      if (process !== undefined) {
        if (thrown !== undefined) recordError(process.span, thrown);
        process.span.end();
        busMetrics.processSeconds.record((performance.now() - process.startedMs) / 1000, {
          ...destination,
          ...(thrown === undefined ? {} : { 'error.type': PlumbError.from(thrown).code }),
        });
      }
    }
  };

  const settleFailure = async (error: PlumbError, thrown: unknown): Promise<void> => {
    const { first, max } = policy.backoffMs ?? defaultBackoff;
    if (signal.aborted) {
      // Ours to stop, not the message's fault: somebody else may have it at once.
      putBack(true);
      delivered.nak();
      return;
    }
    const again = error.retryable || error.code === 'CANCELLED';
    if (again && deliveryCount < maxDeliveries) {
      const pauseMs = Math.max(Math.min(first * 2 ** (deliveryCount - 1), max), error.retryAfterMs ?? 0);
      log.info({ error: thrown, pauseMs }, 'processing failed; it will be tried again');
      putBack(true);
      delivered.nak(pauseMs);
      return;
    }
    log.error(
      { error: thrown, code: error.code, reason: error.reason },
      'processing failed for good; dead letter',
    );
    try {
      if (message !== undefined) await policy.failed?.(message, error, delivery);
      await writeDeadLetter(connection, delivered, error, signal);
      finished.add(delivered);
      putBack(false);
      delivered.term(error.reason);
    } catch (cause) {
      log.error({ error: cause }, 'the dead letter could not be written; the message stays');
      putBack(true);
      delivered.nak(max);
    }
  };
  /** Says in the span of a failure whether the message is tried again. */
  const putBack = (again: boolean): void => {
    if (again) finished.putBack(delivered);
    process?.span.setAttributes({ 'plumb.error.retried': again, 'plumb.retry.attempt': deliveryCount });
  };

  try {
    message = fromBinary(policy.schema, delivered.data);
  } catch (cause) {
    await settle(
      new PlumbError({
        code: 'INVALID_ARGUMENT',
        reason: 'MESSAGE_UNDECODABLE',
        message: `the bytes are not a ${policy.schema.typeName}`,
        cause,
      }),
    );
    return undefined;
  }
  if (deliveryCount > maxDeliveries) {
    await settle(
      new PlumbError({
        code: 'FAILED_PRECONDITION',
        reason: 'DELIVERIES_EXHAUSTED',
        message: `delivered ${deliveryCount} times and never finished; the worker may die of it`,
      }),
    );
    return undefined;
  }
  return { message, delivery, begin, settle };
}

/** Acknowledges and waits for the broker's word. Without it the message comes again and is acknowledged then. */
async function acknowledge(connection: Connection, delivered: JsMsg, log: Logger): Promise<void> {
  try {
    await connection.untilBroken(delivered.ackAck());
  } catch (error) {
    log.debug({ error }, 'the acknowledgement was not confirmed');
  }
}
