import { context, SpanKind, trace } from '@opentelemetry/api';
import { create, toBinary } from '@bufbuild/protobuf';
import type { DescMessage, MessageInitShape } from '@bufbuild/protobuf';
import type { MsgHdrs } from '@nats-io/nats-core';
import { PlumbError } from '../errors/plumb-error.ts';
import { invalidArgument } from '../errors/shorthand.ts';
import { currentCarrier } from '../telemetry/carrier.ts';
import { withSpan } from '../telemetry/spans.ts';
import type { Connection } from './connection.ts';
import { messageHeaders } from './headers.ts';
import {
  busMetrics,
  destinationAttributes,
  domainAttributes,
  messageAttributes,
  scope,
} from './message-telemetry.ts';

export interface PublishOptions {
  /**
   * Deduplication id, the same for every attempt to say the same thing: within the stream's duplicate window (10
   * minutes) it is stored once, also if an earlier one was processed already.
   */
  readonly id: string;
  /** Ends the repetitions while the broker is away; without it they go on for ever. */
  readonly signal?: AbortSignal | undefined;
}

/** What the broker has promised: the message is on its disk. */
export interface PublishAck {
  readonly stream: string;
  readonly sequence: number;
  /** True if a message with this id was there already. */
  readonly duplicate: boolean;
}

/**
 * Publishes one message and resolves when the broker has stored it. While the broker is away it is sent again, with the
 * same id.
 *
 * @throws PlumbError RESOURCE_EXHAUSTED, reason QUEUE_FULL, with retryAfterMs, when the stream is full; INVALID_ARGUMENT,
 *   reason MESSAGE_TOO_LARGE; CANCELLED when the signal aborts
 */
export async function publish<M extends DescMessage>(
  connection: Connection,
  subject: string,
  schema: M,
  init: MessageInitShape<M>,
  options: PublishOptions,
): Promise<PublishAck> {
  const message = create(schema, init);
  const data = toBinary(schema, message);
  const attributes = {
    ...messageAttributes({ operation: 'send', subject, id: options.id, bytes: data.byteLength }),
    ...domainAttributes(message),
  };
  return await withSpan(
    trace.getTracer(scope),
    `send ${subject}`,
    { kind: SpanKind.PRODUCER, attributes },
    async () =>
      await publishBytes(
        connection,
        subject,
        data,
        messageHeaders(schema, currentCarrier(context.active())),
        options,
      ),
  );
}

/** The same for bytes that are encoded already. */
export async function publishBytes(
  connection: Connection,
  subject: string,
  data: Uint8Array,
  headers: MsgHdrs,
  options: PublishOptions,
): Promise<PublishAck> {
  if (options.id === '') throw invalidArgument('id', 'is empty; give the deduplication id of the message');
  const largest = connection.nats.info?.max_payload;
  if (largest !== undefined && data.byteLength > largest) {
    throw invalidArgument(
      'message',
      `has ${data.byteLength} bytes and the broker takes ${largest}; store the bytes as an artifact and send its URI`,
      { reason: 'MESSAGE_TOO_LARGE' },
    );
  }
  const attributes = destinationAttributes('send', subject);
  const startedMs = performance.now();
  try {
    const ack = await connection.attempt(
      async () => await connection.js.publish(subject, data, { msgID: options.id, headers }),
      {
        signal: options.signal,
        onRetry: () => {
          busMetrics.publishRetries.add(1, attributes);
        },
      },
    );
    return { stream: ack.stream, sequence: ack.seq, duplicate: ack.duplicate };
  } catch (thrown) {
    const error = PlumbError.from(thrown);
    if (error.reason !== 'QUEUE_FULL') throw error;
    throw new PlumbError({
      code: error.code,
      reason: error.reason,
      message: `the queue of ${subject} is full; try again when some of it is done`,
      retryAfterMs: error.retryAfterMs,
      cause: error,
    });
  } finally {
    busMetrics.publishSeconds.record((performance.now() - startedMs) / 1000, attributes);
  }
}
