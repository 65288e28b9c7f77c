import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import type { JetStreamClient, JetStreamManager } from '@nats-io/jetstream';
import { credsAuthenticator, usernamePasswordAuthenticator } from '@nats-io/nats-core';
import type { Authenticator, ConnectionOptions, NatsConnection } from '@nats-io/nats-core';
import { connect } from '@nats-io/transport-node';
import { describeError, PlumbError } from '../errors/plumb-error.ts';
import { cancelled, unavailable } from '../errors/shorthand.ts';
import { logger } from '../telemetry/logger.ts';

export interface ConnectOptions {
  /** `nats://host:port`, several separated by commas. */
  readonly url: string;
  /** What the broker shows for this connection, for example `reward`. */
  readonly name: string;
  /** How long the first connection may take; 30 s by default. Later ones are tried for ever. */
  readonly connectTimeoutMs?: number;
  readonly signal?: AbortSignal | undefined;
  readonly access?: BrokerAccess | undefined;
  /** Copies of streams and buckets; 1 by default, more on a cluster of so many brokers. */
  readonly replicas?: number;
}

/** What the broker is shown and whom it must be. Files are read again at every connection. */
export interface BrokerAccess {
  readonly user?: string | undefined;
  readonly passwordFile?: string | undefined;
  /** A .creds file, as nsc makes them. */
  readonly credentialsFile?: string | undefined;
  /** PEM file of the authorities that sign the broker's certificate; TLS is demanded with it. */
  readonly caFile?: string | undefined;
}

/** How an operation is repeated while the broker is away. */
export interface AttemptOptions {
  readonly signal?: AbortSignal | undefined;
  /** Gives up after this long; never without it. */
  readonly deadlineMs?: number | undefined;
  /** Told before each repetition. */
  readonly onRetry?: () => void;
}

// One request that the broker does not answer. A local answer takes about a millisecond, one from a cluster tens.
const requestTimeoutMs = 5000;
const firstPauseMs = 50;
const longestPauseMs = 2000;

/** A connection that outlives the broker: it reconnects for ever and says when it is up. */
export class Connection {
  readonly nats: NatsConnection;
  readonly js: JetStreamClient;
  readonly manager: JetStreamManager;
  /** Copies of streams and buckets. */
  readonly replicas: number;
  readonly #log = logger('bus');
  readonly #url: string;
  #up = Promise.withResolvers<undefined>();
  /** Why nothing can be asked at the moment; undefined while the connection is up. */
  #brokenBy: PlumbError | undefined;
  readonly #onBroken = new Set<(error: PlumbError) => void>();

  private constructor(nats: NatsConnection, manager: JetStreamManager, options: ConnectOptions) {
    this.nats = nats;
    this.replicas = options.replicas ?? 1;
    this.js = jetstream(nats, { timeout: requestTimeoutMs });
    this.manager = manager;
    this.#url = options.url;
    this.#up.resolve(undefined);
    void this.#watch();
  }

  /** @throws PlumbError UNAVAILABLE, reason BROKER_UNAVAILABLE, with URL and fix when nothing answers in time */
  static async open(options: ConnectOptions): Promise<Connection> {
    const access = accessOptions(options.url, options.access ?? {});
    const endMs = Date.now() + (options.connectTimeoutMs ?? 30_000);
    for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(2 * pauseMs, longestPauseMs)) {
      if (options.signal?.aborted === true) throw cancelled('connecting to the broker was cancelled');
      try {
        const nats = await connect({
          servers: options.url.split(','),
          name: options.name,
          // A user of the broker can be kept to its own answers.
          inboxPrefix: `_INBOX.${options.name.replaceAll(/[^\w-]/g, '-')}`,
          timeout: requestTimeoutMs,
          maxReconnectAttempts: -1,
          reconnectTimeWait: 100,
          reconnectJitter: 100,
          ignoreAuthErrorAbort: true,
          // Otherwise every request and every acknowledgement makes an error with a stack, in case it fails.
          noAsyncTraces: true,
          pingInterval: 10_000,
          maxPingOut: 2,
          ...access,
        });
        try {
          return new Connection(nats, await jetstreamManager(nats, { timeout: requestTimeoutMs }), options);
        } catch (error) {
          await nats.close();
          throw error;
        }
      } catch (cause) {
        const error = PlumbError.from(cause);
        if (!error.retryable && error.code !== 'INTERNAL') throw error;
        if (Date.now() + pauseMs >= endMs) {
          throw unavailable(
            `no broker answers at ${options.url} (${describeError(cause)}); start one with 'nats-server -js' or set PLUMB_NATS_URL`,
            { reason: 'BROKER_UNAVAILABLE', cause },
          );
        }
        await delay(pauseMs);
      }
    }
  }

  /** Resolves when the connection is up. @throws PlumbError when the signal aborts or the connection was closed */
  async connected(signal?: AbortSignal): Promise<void> {
    if (this.nats.isClosed()) throw this.#closedError();
    if (this.#brokenBy === undefined && signal?.aborted !== true) return;
    await untilAborted(this.#up.promise, signal);
  }

  /**
   * Calls back when the connection breaks, and at once if it is broken. Gives the function that takes the callback away:
   * a connection lasts for months, and what is left with it lasts as long.
   */
  onBroken(callback: (error: PlumbError) => void): () => void {
    if (this.#brokenBy !== undefined) {
      callback(this.#brokenBy);
      return () => undefined;
    }
    this.#onBroken.add(callback);
    return () => {
      this.#onBroken.delete(callback);
    };
  }

  /** The answer of the broker, or an error as soon as the connection breaks or the signal aborts. */
  async untilBroken<Result>(answer: Promise<Result>, signal?: AbortSignal): Promise<Result> {
    const { promise, resolve, reject } = Promise.withResolvers<Result>();
    answer.then(resolve, reject);
    const takeAway = this.onBroken(reject);
    try {
      return await untilAborted(promise, signal);
    } finally {
      takeAway();
    }
  }

  /**
   * Does an operation, again and again while the broker is away or does not answer. The operation must be safe to
   * repeat. Other errors are thrown at once, as PlumbErrors.
   */
  async attempt<Result>(operation: () => Promise<Result>, options: AttemptOptions = {}): Promise<Result> {
    const { signal, deadlineMs } = options;
    if (deadlineMs === undefined) return this.#attempt(operation, options, signal);
    // Not AbortSignal.timeout, which cannot be taken back: each operation would leave one that goes off half a minute later.
    const late = new AbortController();
    const timer = setTimeout(() => {
      late.abort();
    }, deadlineMs);
    timer.unref();
    const either = signal === undefined ? late.signal : AbortSignal.any([signal, late.signal]);
    try {
      return await this.#attempt(operation, options, either);
    } finally {
      clearTimeout(timer);
    }
  }

  async #attempt<Result>(
    operation: () => Promise<Result>,
    options: AttemptOptions,
    signal: AbortSignal | undefined,
  ): Promise<Result> {
    let last: PlumbError | undefined;
    for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(2 * pauseMs, longestPauseMs)) {
      try {
        await this.connected(signal);
        return await this.untilBroken(operation(), signal);
      } catch (thrown) {
        const error = PlumbError.from(thrown);
        if (signal?.aborted === true) {
          if (options.signal?.aborted === true) throw error;
          throw unavailable(`the broker at ${this.#url} is away`, {
            reason: 'BROKER_UNAVAILABLE',
            cause: last ?? error,
          });
        }
        if (this.nats.isClosed()) throw this.#closedError();
        if (error.code !== 'UNAVAILABLE' && error.code !== 'DEADLINE_EXCEEDED') throw error;
        last = error;
      }
      options.onRetry?.();
      // Half of the pause is chance, so that many clients do not come back in step.
      await untilAborted(delay(pauseMs / 2 + (Math.random() * pauseMs) / 2), signal);
    }
  }

  /** Sends what is pending and closes. */
  async close(): Promise<void> {
    if (this.nats.isClosed()) return;
    // Draining needs a broker; without one there is nobody to send to.
    const drained = this.nats.drain().catch((error: unknown) => {
      this.#log.debug({ error }, 'the connection could not be drained');
    });
    const { promise: late, resolve } = Promise.withResolvers<undefined>();
    const timer = setTimeout(() => {
      resolve(undefined);
    }, 2000);
    await Promise.race([drained, late]);
    clearTimeout(timer);
    await this.nats.close();
  }

  async #watch(): Promise<void> {
    for await (const status of this.nats.status()) {
      switch (status.type) {
        case 'disconnect':
          this.#log.warn('the connection to the broker is lost; trying again until it is back');
          this.#up = Promise.withResolvers<undefined>();
          ignoreRejection(this.#up.promise);
          this.#break(unavailable('the connection to the broker broke', { reason: 'BROKER_UNAVAILABLE' }));
          break;
        case 'reconnect':
          this.#log.info('the connection to the broker is back');
          this.#brokenBy = undefined;
          this.#up.resolve(undefined);
          break;
        case 'error':
          this.#log.warn({ error: status.error }, 'the broker reports an error');
          break;
        case 'slowConsumer':
          this.#log.warn({ pending: status.pending }, 'messages arrive faster than they are taken');
          break;
        case 'reconnecting':
        case 'update':
        case 'ldm':
        case 'ping':
        case 'staleConnection':
        case 'forceReconnect':
        case 'close':
          this.#log.debug({ status: status.type }, 'connection status');
          break;
      }
    }
    // Closed: whoever waits must not wait for ever.
    this.#up.reject(this.#closedError());
    this.#break(this.#closedError());
  }

  #break(error: PlumbError): void {
    this.#brokenBy = error;
    const callbacks = [...this.#onBroken];
    this.#onBroken.clear();
    for (const callback of callbacks) callback(error);
  }

  #closedError(): PlumbError {
    return unavailable('the connection to the broker is closed', { reason: 'SHUTTING_DOWN' });
  }
}

/** @throws PlumbError CONFIGURATION_INVALID when a file cannot be read */
function accessOptions(url: string, access: BrokerAccess): Partial<ConnectionOptions> {
  const { user, passwordFile, credentialsFile, caFile } = access;
  const read = (path: string, variable: string): Buffer => {
    try {
      return readFileSync(path);
    } catch (cause) {
      throw new PlumbError({
        code: 'INVALID_ARGUMENT',
        reason: 'CONFIGURATION_INVALID',
        message: `${variable}=${path} cannot be read (${describeError(cause)})`,
        cause,
      });
    }
  };
  const password = () =>
    passwordFile === undefined ? '' : read(passwordFile, 'PLUMB_NATS_PASSWORD_FILE').toString('utf8').trim();
  const authenticators: Authenticator[] = [];
  if (user !== undefined) {
    password();
    authenticators.push(usernamePasswordAuthenticator(user, password));
  }
  if (credentialsFile !== undefined) {
    const credentials = () => read(credentialsFile, 'PLUMB_NATS_CREDENTIALS_FILE');
    const now = credentials();
    // The authenticator takes bytes: one for each connection reads what the file holds by then.
    credsAuthenticator(now);
    authenticators.push((nonce) => credsAuthenticator(credentials())(nonce));
  }
  if (caFile !== undefined) read(caFile, 'PLUMB_NATS_CA');
  const encrypted =
    caFile !== undefined || url.split(',').some((server) => server.trim().startsWith('tls://'));
  return {
    ...(authenticators.length === 0 ? {} : { authenticator: authenticators }),
    ...(encrypted ? { tls: { handshakeFirst: false, ...(caFile === undefined ? {} : { caFile }) } } : {}),
  };
}

/** The promise, or the signal's reason as soon as it aborts. */
export async function untilAborted<Result>(
  promise: Promise<Result>,
  signal: AbortSignal | undefined,
): Promise<Result> {
  if (signal === undefined) return promise;
  const aborted = Promise.withResolvers<never>();
  const listener = (): void => {
    const error = PlumbError.from(signal.reason);
    aborted.reject(error.code === 'INTERNAL' ? cancelled(undefined, { cause: signal.reason }) : error);
  };
  if (signal.aborted) listener();
  else signal.addEventListener('abort', listener, { once: true });
  ignoreRejection(promise);
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', listener);
    ignoreRejection(aborted.promise);
  }
}

/** The rejection is seen elsewhere, by whoever races against the promise; alone it must not end the process. */
function ignoreRejection(promise: Promise<unknown>): void {
  promise.catch(() => undefined);
}
