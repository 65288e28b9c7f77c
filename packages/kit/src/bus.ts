/** `@plumb/kit/bus`: tasks, events, dead letters and key-value buckets over NATS JetStream. */
export { jsonCodec, messageCodec } from './bus/codecs.ts';
export type { Codec } from './bus/codecs.ts';
export { connectBus } from './bus/connect-bus.ts';
export type { Bus, QueueDepth } from './bus/connect-bus.ts';
export type { ConnectOptions } from './bus/connection.ts';
export type {
  BatchHandler,
  BatchItem,
  BatchOutcome,
  ConsumeBatchesOptions,
  ConsumeOptions,
  MessageHandler,
} from './bus/consume.ts';
export type { DeadLetter, DeadLetters } from './bus/dead-letters.ts';
export type { Delivery, DeliveryPolicy } from './bus/delivery.ts';
export { inspectBroker } from './bus/inspect-broker.ts';
export type { BrokerReport, InspectedStream } from './bus/inspect-broker.ts';
export type { Change, Entry, KeyValue, KeyValueOptions } from './bus/key-value.ts';
export type { PublishAck, PublishOptions } from './bus/publish.ts';
export { restoreBuckets, saveBuckets } from './bus/saved-buckets.ts';
export type { SavedBucket } from './bus/saved-buckets.ts';
export { observeQueues } from './bus/queue-metrics.ts';
export type { ObservedQueue } from './bus/queue-metrics.ts';
export type { Consumption } from './bus/pump.ts';
export { plumbStreams, streamNames, subjects } from './bus/streams.ts';
export type { StreamSpec } from './bus/streams.ts';
