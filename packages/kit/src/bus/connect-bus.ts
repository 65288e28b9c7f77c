import type { StreamConfig } from '@nats-io/jetstream';
import type { DescMessage, MessageInitShape } from '@bufbuild/protobuf';
import { PlumbError } from '../errors/plumb-error.ts';
import type { Codec } from './codecs.ts';
import { Connection } from './connection.ts';
import type { ConnectOptions } from './connection.ts';
import { consume, consumeBatches } from './consume.ts';
import type { BatchHandler, ConsumeBatchesOptions, ConsumeOptions, MessageHandler } from './consume.ts';
import { openDeadLetters } from './dead-letters.ts';
import type { DeadLetters } from './dead-letters.ts';
import { openKeyValue } from './key-value.ts';
import type { KeyValue, KeyValueOptions } from './key-value.ts';
import { logger } from '../telemetry/logger.ts';
import { publish } from './publish.ts';
import type { PublishAck, PublishOptions } from './publish.ts';
import type { Consumption } from './pump.ts';
import { plumbStreams, toStreamConfig } from './streams.ts';
import type { StreamSpec } from './streams.ts';

/** How much a consumer has before it. */
export interface QueueDepth {
  /** Not delivered yet. */
  readonly waiting: number;
  /** Delivered and not settled. */
  readonly inFlight: number;
  readonly redelivered: number;
}

/** The broker, as services see it. */
export interface Bus {
  /** Makes the streams, or changes them to what is declared. Any number of services may do it at once. */
  ensureStreams(streams?: readonly StreamSpec[]): Promise<void>;
  /** See `publish` in publish.ts. */
  publish<M extends DescMessage>(
    subject: string,
    schema: M,
    message: MessageInitShape<M>,
    options: PublishOptions,
  ): Promise<PublishAck>;
  /** See `consume` in consume.ts. */
  consume<M extends DescMessage>(
    options: ConsumeOptions<M>,
    handler: MessageHandler<M>,
  ): Promise<Consumption>;
  consumeBatches<M extends DescMessage>(
    options: ConsumeBatchesOptions<M>,
    handler: BatchHandler<M>,
  ): Promise<Consumption>;
  keyValue<Read, Written>(
    bucket: string,
    codec: Codec<Read, Written>,
    options?: KeyValueOptions,
  ): Promise<KeyValue<Read, Written>>;
  readonly deadLetters: DeadLetters;
  /** @throws PlumbError NOT_FOUND when there is no such consumer yet */
  queueDepth(stream: string, durable: string): Promise<QueueDepth>;
  /** When the oldest message of a subject was stored; `at` is undefined when there is none. */
  oldestMessage(stream: string, subject: string): Promise<{ readonly at: Date | undefined }>;
  /** Sends what is pending and closes. Stop the consumptions first. */
  close(): Promise<void>;
}

// How long an operation that nobody gave a deadline waits for a broker that is away.
const deadlineMs = 30_000;

/**
 * Connects to the broker; afterwards the connection comes back by itself for ever.
 *
 * @throws PlumbError UNAVAILABLE, reason BROKER_UNAVAILABLE, when nothing answers within `connectTimeoutMs`;
 *   FAILED_PRECONDITION when the broker runs without JetStream
 */
export async function connectBus(options: ConnectOptions): Promise<Bus> {
  const connection = await Connection.open(options);
  let declared = plumbStreams;
  const ensureStreams = async (streams: readonly StreamSpec[] = plumbStreams): Promise<void> => {
    declared = streams;
    for (const spec of streams) {
      await connection.attempt(
        async () => {
          await ensureStream(connection, spec);
        },
        { deadlineMs },
      );
    }
  };
  const restore = async (): Promise<void> => {
    await ensureStreams(declared);
  };
  return {
    ensureStreams,
    publish: async (subject, schema, message, publishOptions) =>
      await publish(connection, subject, schema, message, publishOptions),
    consume: async (consumeOptions, handler) => await consume(connection, restore, consumeOptions, handler),
    consumeBatches: async (consumeOptions, handler) =>
      await consumeBatches(connection, restore, consumeOptions, handler),
    keyValue: async (bucket, codec, keyValueOptions) =>
      await openKeyValue(connection, bucket, codec, keyValueOptions),
    deadLetters: openDeadLetters(connection, deadlineMs),
    queueDepth: async (stream, durable) => {
      const info = await connection.attempt(
        async () => await connection.manager.consumers.info(stream, durable),
        { deadlineMs },
      );
      return { waiting: info.num_pending, inFlight: info.num_ack_pending, redelivered: info.num_redelivered };
    },
    oldestMessage: async (stream, subject) => {
      const stored = await connection.attempt(
        async () => await connection.manager.direct.getMessage(stream, { seq: 1, next_by_subj: subject }),
        { deadlineMs },
      );
      return { at: stored?.time };
    },
    close: async () => {
      await connection.close();
    },
  };
}

async function ensureStream(connection: Connection, spec: StreamSpec): Promise<void> {
  const { streams } = connection.manager;
  const config = toStreamConfig({ replicas: connection.replicas, ...spec });
  try {
    const { config: existing } = await streams.info(spec.name);
    const { name: _name, retention: _retention, storage: _storage, ...changeable } = config;
    const differs = Object.entries(changeable).some(
      ([key, value]) => JSON.stringify(Reflect.get(existing, key)) !== JSON.stringify(value),
    );
    if (differs) await changeStream(connection, spec.name, changeable);
  } catch (thrown) {
    const error = PlumbError.from(thrown);
    if (error.code !== 'NOT_FOUND') throw error;
    await streams.add(config);
  }
}

/** Changes a stream, unless the broker leaves that to another of its users: the loop's, in the chart. */
async function changeStream(
  connection: Connection,
  name: string,
  changeable: Partial<StreamConfig>,
): Promise<void> {
  try {
    await connection.manager.streams.update(name, changeable);
  } catch (thrown) {
    const error = PlumbError.from(thrown);
    if (error.code !== 'PERMISSION_DENIED') throw error;
    logger('bus').warn(
      { stream: name },
      'the stream differs from what this version declares, and this user may not change it',
    );
  }
}
