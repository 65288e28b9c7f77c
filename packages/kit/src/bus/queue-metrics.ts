import { metrics } from '@opentelemetry/api';
import { PlumbError } from '../errors/plumb-error.ts';
import { logger } from '../telemetry/logger.ts';
import type { Bus } from './connect-bus.ts';

/** A durable consumer whose backlog is observed. */
export interface ObservedQueue {
  readonly stream: string;
  readonly durable: string;
  readonly subject: string;
  /** The stream keeps messages only until they are done, so that its oldest one is the oldest work there is. */
  readonly work: boolean;
}

// A scrape must not wait for a broker that is away.
const deadlineMs = 2000;

/**
 * Observes how much waits before consumers, how old the oldest work is, and how many dead letters there are, whenever
 * metrics are collected. One service does it for all: depths are the broker's and not a process's.
 */
export function observeQueues(bus: Bus, queues: readonly ObservedQueue[]): void {
  const meter = metrics.getMeter('plumb.bus');
  const depth = meter.createObservableGauge('plumb.queue.depth', {
    description: 'Messages that wait for a consumer, and have not been delivered to any',
    unit: '{message}',
  });
  const unsettled = meter.createObservableGauge('plumb.queue.unsettled', {
    description: 'Messages delivered to a consumer, by whichever process, and not settled',
    unit: '{message}',
  });
  const age = meter.createObservableGauge('plumb.queue.age', {
    description: 'Age of the oldest task that is not done; 0 when there is none',
    unit: 's',
  });
  const deadLetters = meter.createObservableGauge('plumb.queue.dead_letters.stored', {
    description: 'Messages in the dead-letter stream',
    unit: '{message}',
  });
  meter.addBatchObservableCallback(
    async (result) => {
      await Promise.all(
        queues.map(async ({ stream, durable, subject, work }) => {
          const attributes = {
            'messaging.destination.name': subject,
            'messaging.consumer.group.name': durable,
          };
          const found = await inTime(bus.queueDepth(stream, durable));
          if (found !== undefined) {
            result.observe(depth, found.waiting, attributes);
            result.observe(unsettled, found.inFlight, attributes);
          }
          if (!work) return;
          const oldest = await inTime(bus.oldestMessage(stream, subject));
          if (oldest === undefined) return;
          const ageMs = oldest.at === undefined ? 0 : Date.now() - oldest.at.getTime();
          result.observe(age, Math.max(0, ageMs) / 1000, attributes);
        }),
      );
      const stored = await inTime(bus.deadLetters.count());
      if (stored !== undefined) result.observe(deadLetters, stored);
    },
    [depth, unsettled, age, deadLetters],
  );
}

/** The value, or undefined where the broker has none or does not say it in time: the metric has a gap then. */
async function inTime<Value>(value: Promise<Value>): Promise<Value | undefined> {
  const late = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => {
    late.resolve(undefined);
  }, deadlineMs);
  try {
    return await Promise.race([value, late.promise]);
  } catch (thrown) {
    const error = PlumbError.from(thrown);
    // A consumer that no worker has made yet.
    if (error.code !== 'NOT_FOUND') logger('bus').debug({ error }, 'a queue could not be observed');
    return undefined;
  } finally {
    clearTimeout(timer);
  }
}
