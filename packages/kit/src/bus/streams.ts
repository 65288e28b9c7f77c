import { AckPolicy, DiscardPolicy, RetentionPolicy, StorageType } from '@nats-io/jetstream';
import type { StreamConfig } from '@nats-io/jetstream';
import { nanos } from '@nats-io/nats-core';

/** Where messages are published. One subject carries one message type, see proto/plumb/tasks/v1. */
export const subjects = {
  taskGenerate: 'plumb.tasks.generate',
  taskScore: 'plumb.tasks.score',
  sampleGenerated: 'plumb.events.sample.generated',
  sampleScored: 'plumb.events.sample.scored',
  sampleFailed: 'plumb.events.sample.failed',
  trainingProgress: 'plumb.events.training.progress',
} as const;

export const streamNames = {
  tasks: 'PLUMB_TASKS',
  events: 'PLUMB_EVENTS',
  deadLetters: 'PLUMB_DEAD_LETTERS',
} as const;

/** First part of the subject of a dead letter; stream and consumer follow. */
export const deadLetterPrefix = 'plumb.dead';

/** A stream as we declare it; everything else is the server's default. */
export interface StreamSpec {
  readonly name: string;
  readonly description: string;
  readonly subjects: readonly string[];
  /** 'work' removes a message once it is acknowledged; 'keep' keeps it up to the limits. */
  readonly kind: 'work' | 'keep';
  readonly maxMessages: number;
  readonly maxBytes: number;
  /** 0 keeps for ever. */
  readonly maxAgeMs: number;
  /** A message id that comes again within this time is stored once. */
  readonly duplicateWindowMs: number;
  /** Copies in a cluster; 1 on a single server. */
  readonly replicas?: number;
}

const mebibyte = 2 ** 20;
const day = 24 * 60 * 60 * 1000;

// Longer than a broker may be away while a publisher repeats a message: a restart takes seconds, an election less.
const duplicateWindowMs = 10 * 60 * 1000;

/**
 * Every stream of the platform. A full stream refuses new messages (the publisher gets RESOURCE_EXHAUSTED) and never
 * drops old ones. Messages are small, a few KiB: bytes of clips travel as artifacts.
 */
export const plumbStreams: readonly StreamSpec[] = [
  {
    name: streamNames.tasks,
    description: 'Work to be done, each task once',
    subjects: ['plumb.tasks.>'],
    kind: 'work',
    maxMessages: 100_000, // a run of 120 prompts and 64 samples each is below a tenth of it
    maxBytes: 256 * mebibyte,
    maxAgeMs: 0,
    duplicateWindowMs,
  },
  {
    name: streamNames.events,
    description: 'What has happened to samples and jobs',
    subjects: ['plumb.events.>'],
    kind: 'keep',
    maxMessages: 2_000_000,
    maxBytes: 1024 * mebibyte,
    maxAgeMs: 14 * day, // longer than anybody may take to bring a ledger back
    duplicateWindowMs,
  },
  {
    name: streamNames.deadLetters,
    description: 'Messages that could not be processed, with the reason',
    subjects: [`${deadLetterPrefix}.>`],
    kind: 'keep',
    maxMessages: 100_000,
    maxBytes: 256 * mebibyte,
    maxAgeMs: 0,
    duplicateWindowMs,
  },
];

type NewStream = Partial<StreamConfig> & Pick<StreamConfig, 'name'>;

/** A spec as JetStream's configuration. */
export function toStreamConfig(spec: StreamSpec): NewStream {
  return {
    name: spec.name,
    description: spec.description,
    subjects: [...spec.subjects],
    retention: spec.kind === 'work' ? RetentionPolicy.Workqueue : RetentionPolicy.Limits,
    storage: StorageType.File,
    discard: DiscardPolicy.New,
    max_msgs: spec.maxMessages,
    max_bytes: spec.maxBytes,
    max_age: nanos(spec.maxAgeMs),
    duplicate_window: nanos(spec.duplicateWindowMs),
    num_replicas: spec.replicas ?? 1,
    allow_direct: true,
  };
}

/** The durable consumer that all workers of one kind share. */
export function toConsumerConfig(durable: string, subject: string, ackWaitMs: number) {
  return {
    durable_name: durable,
    filter_subject: subject,
    ack_policy: AckPolicy.Explicit,
    ack_wait: nanos(ackWaitMs),
    // Deliveries are counted by us: at its own limit the server would only fall silent about the message.
    max_deliver: -1,
    // All workers together; each bounds its own part by maxInFlight.
    max_ack_pending: 10_000,
  };
}
