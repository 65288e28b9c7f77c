import { setTimeout as delay } from 'node:timers/promises';
import type { Consumer, ConsumerMessages, JsMsg } from '@nats-io/jetstream';
import { nanos } from '@nats-io/nats-core';
import { PlumbError } from '../errors/plumb-error.ts';
import { logger } from '../telemetry/logger.ts';
import type { Connection } from './connection.ts';
import { toConsumerConfig } from './streams.ts';

/** A running consumption. */
export interface Consumption {
  /**
   * Takes no new messages and waits for those in work, up to `deadlineMs` (10 s by default); then aborts their signals,
   * and what they leave unfinished is delivered again to somebody else.
   */
  stop(options?: { readonly deadlineMs?: number }): Promise<void>;
  /** Resolves when it has stopped. */
  readonly done: Promise<void>;
}

export interface PumpOptions {
  readonly stream: string;
  readonly durable: string;
  readonly subject: string;
  readonly maxInFlight: number;
  readonly ackWaitMs: number;
  readonly signal?: AbortSignal | undefined;
  /** Makes the stream again if the broker has lost it. */
  readonly restoreStreams: () => Promise<void>;
}

// One pull request waits this long for messages; its end is no event, the next one follows.
const pullMs = 5000;
// The broker says at least this often that it still knows of the pull; two silences, and it is made again. A pull that
// reaches a broker in the middle of its start is lost without a word.
const heartbeatMs = 500;
const firstPauseMs = 50;
const longestPauseMs = 2000;

/**
 * Pulls messages for `work`, which settles them, and keeps at most `maxInFlight` of them in work. It
 * goes on after anything that may happen to the broker: lost connections, restarts, a deleted consumer.
 */
export async function startPump(
  connection: Connection,
  options: PumpOptions,
  work: (message: JsMsg, abandoned: AbortSignal) => Promise<void>,
): Promise<Consumption> {
  const log = logger('bus');
  const stopping = new AbortController();
  const abandoned = new AbortController();
  const running = new Set<Promise<void>>();
  let pulling: ConsumerMessages | undefined;
  let freed = Promise.withResolvers<undefined>();

  const take = async (message: JsMsg): Promise<void> => {
    try {
      await work(message, abandoned.signal);
    } catch (error) {
      // Only a closed connection leaves a message unsettled; the broker delivers it again after its wait.
      log.warn({ error, stream: options.stream, sequence: message.seq }, 'a message could not be settled');
    }
  };
  const onFreed = (): void => {
    freed.resolve(undefined);
    freed = Promise.withResolvers<undefined>();
  };
  const begin = (message: JsMsg): void => {
    const one = take(message).finally(() => {
      running.delete(one);
      onFreed();
    });
    running.add(one);
  };

  let consumer: Consumer | undefined = await connection.attempt(() => openConsumer(connection, options), {
    signal: options.signal,
    deadlineMs: 30_000,
  });

  const pull = async (from: Consumer, count: number): Promise<void> => {
    pulling = await from.fetch({ max_messages: count, expires: pullMs, idle_heartbeat: heartbeatMs });
    const current = pulling;
    // A broken connection leaves a pull without an end; the next one is made as soon as the connection is back.
    const end = (): void => {
      void current.close();
    };
    const takeAway = connection.onBroken(end);
    const overdue = setTimeout(() => {
      log.warn(
        { stream: options.stream, durable: options.durable },
        'a pull did not end by itself; making another',
      );
      end();
    }, 2 * pullMs);
    if (stopping.signal.aborted) end();
    try {
      for await (const message of current) {
        if (stopping.signal.aborted) message.nak();
        else begin(message);
      }
    } finally {
      clearTimeout(overdue);
      takeAway();
    }
  };

  const loop = async (): Promise<void> => {
    let pauseMs = firstPauseMs;
    while (!stopping.signal.aborted) {
      if (running.size >= options.maxInFlight) {
        await freed.promise;
        continue;
      }
      try {
        await connection.connected(stopping.signal);
        consumer ??= await openConsumer(connection, options);
        await pull(consumer, options.maxInFlight - running.size);
        pauseMs = firstPauseMs;
      } catch (thrown) {
        if (stopping.signal.aborted || connection.nats.isClosed()) break;
        const error = PlumbError.from(thrown);
        log.debug(
          { error, stream: options.stream, durable: options.durable },
          'pulling messages failed; trying again',
        );
        consumer = undefined;
        await delay(pauseMs);
        pauseMs = Math.min(2 * pauseMs, longestPauseMs);
        if (error.code === 'NOT_FOUND') await restore();
      }
    }
  };
  const restore = async (): Promise<void> => {
    try {
      await options.restoreStreams();
    } catch (error) {
      log.warn({ error, stream: options.stream }, 'the stream is gone and cannot be made again yet');
    }
  };

  const finished = loop();
  const stop = async ({ deadlineMs = 10_000 }: { deadlineMs?: number } = {}): Promise<void> => {
    stopping.abort();
    void pulling?.close();
    onFreed();
    const timer = setTimeout(() => {
      abandoned.abort(
        new PlumbError({ code: 'CANCELLED', reason: 'SHUTTING_DOWN', message: 'the service is stopping' }),
      );
    }, deadlineMs);
    await finished;
    await Promise.all(running);
    clearTimeout(timer);
    options.signal?.removeEventListener('abort', onAbort);
  };
  const onAbort = (): void => {
    void stop();
  };
  if (options.signal?.aborted === true) onAbort();
  else options.signal?.addEventListener('abort', onAbort, { once: true });

  const drained = async (): Promise<void> => {
    await finished;
    await Promise.all(running);
  };
  return { stop, done: drained() };
}

/** The consumer as declared: found, made, or changed to what is declared now. */
async function openConsumer(connection: Connection, options: PumpOptions): Promise<Consumer> {
  const { stream, durable, subject, ackWaitMs } = options;
  const { consumers } = connection.manager;
  const config = toConsumerConfig(durable, subject, ackWaitMs);
  try {
    const { config: existing } = await consumers.info(stream, durable);
    if (existing.ack_wait !== nanos(ackWaitMs) || existing.max_ack_pending !== config.max_ack_pending) {
      await consumers.update(stream, durable, { ...existing, ...config });
    }
  } catch (thrown) {
    const error = PlumbError.from(thrown);
    if (error.code !== 'NOT_FOUND') throw error;
    await consumers.add(stream, config);
  }
  return await connection.js.consumers.get(stream, durable);
}
