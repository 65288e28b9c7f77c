import type { Attributes } from '@opentelemetry/api';
import {
  ATTR_MESSAGING_CONSUMER_GROUP_NAME,
  ATTR_MESSAGING_DESTINATION_NAME,
  ATTR_MESSAGING_MESSAGE_BODY_SIZE,
  ATTR_MESSAGING_MESSAGE_ID,
  ATTR_MESSAGING_OPERATION_NAME,
  ATTR_MESSAGING_OPERATION_TYPE,
  ATTR_MESSAGING_SYSTEM_NAME,
} from '@opentelemetry/semantic-conventions/incubating';
import { counter, durationBuckets, histogram, upDownCounter } from '../telemetry/instruments.ts';
import type { WorkIds } from '../telemetry/work-ids.ts';

/** Name of the tracer and the meter of the bus. */
export const scope = 'plumb.bus';

const advice = { explicitBucketBoundaries: durationBuckets };

export const busMetrics = {
  publishSeconds: histogram(scope, 'messaging.client.operation.duration', {
    description: 'From publish to the acknowledgement of the broker, with repetitions',
    unit: 's',
    advice,
  }),
  processSeconds: histogram(scope, 'messaging.process.duration', {
    description: 'Processing of a message by its handler',
    unit: 's',
    advice,
  }),
  waitSeconds: histogram(scope, 'plumb.queue.wait', {
    description: 'From the time a message was stored to the start of its first processing',
    unit: 's',
    advice,
  }),
  inFlight: upDownCounter(scope, 'plumb.queue.in_flight', {
    description: 'Messages received and not yet settled',
    unit: '{message}',
  }),
  batchSize: histogram(scope, 'plumb.queue.batch.size', {
    description: 'Messages handed to a batch handler at once',
    unit: '{message}',
    advice: { explicitBucketBoundaries: [1, 2, 4, 8, 16, 32, 64, 128] },
  }),
  publishRetries: counter(scope, 'plumb.queue.publish.retries', {
    description: 'Publications repeated because the broker was away',
    unit: '{attempt}',
  }),
  redeliveries: counter(scope, 'plumb.queue.redeliveries', {
    description: 'Messages that came again',
    unit: '{message}',
  }),
  deadLetters: counter(scope, 'plumb.queue.dead_letters', {
    description: 'Messages given up, by reason',
    unit: '{message}',
  }),
};

/** Attributes of a span about one message, by the messaging semantic conventions. */
export function messageAttributes(message: {
  readonly operation: 'send' | 'receive' | 'process';
  readonly subject: string;
  readonly id: string;
  readonly bytes: number;
  readonly consumer?: string;
}): Attributes {
  return {
    ...destinationAttributes(message.operation, message.subject, message.consumer),
    [ATTR_MESSAGING_MESSAGE_ID]: message.id,
    [ATTR_MESSAGING_MESSAGE_BODY_SIZE]: message.bytes,
  };
}

/** The part of them that is the same for all messages of a subject: fit for metrics and batches. */
export function destinationAttributes(
  operation: 'send' | 'receive' | 'process',
  subject: string,
  consumer?: string,
): Attributes {
  return {
    [ATTR_MESSAGING_SYSTEM_NAME]: 'nats',
    [ATTR_MESSAGING_OPERATION_NAME]: operation,
    [ATTR_MESSAGING_OPERATION_TYPE]: operation,
    [ATTR_MESSAGING_DESTINATION_NAME]: subject,
    ...(consumer === undefined ? {} : { [ATTR_MESSAGING_CONSUMER_GROUP_NAME]: consumer }),
  };
}

const domainFields = {
  runId: 'plumb.run.id',
  iteration: 'plumb.iteration',
  sampleId: 'plumb.sample.id',
  jobId: 'plumb.job.id',
} as const;

/** Ids that our messages carry in fields of fixed names. */
export function domainIds(message: object): WorkIds {
  const ids: Record<string, string | number> = {};
  for (const field of Object.keys(domainFields)) {
    const value: unknown = Object.hasOwn(message, field) ? Reflect.get(message, field) : undefined;
    if ((typeof value === 'string' && value !== '') || typeof value === 'number') ids[field] = value;
  }
  return ids;
}

/** The same as attributes: every span about a message has them. */
export function domainAttributes(message: object): Attributes {
  return Object.fromEntries(
    Object.entries(domainIds(message)).map(([field, value]) => [
      domainFields[field as keyof typeof domainFields],
      value,
    ]),
  );
}
