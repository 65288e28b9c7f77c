import { setTimeout as delay } from 'node:timers/promises';
import { Kvm } from '@nats-io/kv';
import type { KV, KvEntry, KvWatchEntry } from '@nats-io/kv';
import type { QueuedIterator } from '@nats-io/nats-core';
import { PlumbError } from '../errors/plumb-error.ts';
import { aborted, alreadyExists, invalidArgument } from '../errors/shorthand.ts';
import { logger } from '../telemetry/logger.ts';
import type { Codec } from './codecs.ts';
import type { AttemptOptions, Connection } from './connection.ts';

export interface KeyValueOptions {
  /** Revisions kept of each key; 1 by default, 64 at most. */
  readonly history?: number;
  /** Keys vanish this long after their last change; never by default. */
  readonly ttlMs?: number;
  /** Size of the whole bucket; 64 MiB by default. */
  readonly maxBytes?: number;
  /** How long an operation waits for a broker that is away; 30 s by default. */
  readonly deadlineMs?: number;
}

export interface Entry<T> {
  readonly key: string;
  readonly value: T;
  /** Grows with every change in the bucket. */
  readonly revision: number;
}

/** A change seen by `watch`; the value is undefined when the key was deleted. */
export interface Change<T> {
  readonly key: string;
  readonly value: T | undefined;
  readonly revision: number;
}

/** Typed keys and values in JetStream. Keys are letters, digits and `-_=./`; dots part them for filters (`run.*`). */
export interface KeyValue<Read, Written = Read> {
  get(key: string): Promise<Entry<Read> | undefined>;
  /** Writes whatever was there. Gives the new revision. */
  put(key: string, value: Written): Promise<number>;
  /** @throws PlumbError ALREADY_EXISTS */
  create(key: string, value: Written): Promise<number>;
  /** Writes only over `revision`. @throws PlumbError ABORTED, reason REVISION_CONFLICT */
  update(key: string, value: Written, revision: number): Promise<number>;
  delete(key: string): Promise<void>;
  keys(filter?: string): Promise<string[]>;
  entries(filter?: string): Promise<Entry<Read>[]>;
  /** All present values first, then every change, each once, through restarts of the broker, until the signal aborts. */
  watch(options: { readonly key?: string; readonly signal: AbortSignal }): AsyncIterable<Change<Read>>;
}

/** Opens a bucket, and makes it if it is not there. */
export async function openKeyValue<Read, Written>(
  connection: Connection,
  bucket: string,
  codec: Codec<Read, Written>,
  options: KeyValueOptions = {},
): Promise<KeyValue<Read, Written>> {
  const within: AttemptOptions = { deadlineMs: options.deadlineMs ?? 30_000 };
  const kv = await connection.attempt(
    async () =>
      await new Kvm(connection.js).create(bucket, {
        history: options.history ?? 1,
        max_bytes: options.maxBytes ?? 64 * 2 ** 20,
        replicas: connection.replicas,
        // Reads go to the leader of the bucket: what was written is read.
        allow_direct: false,
        ...(options.ttlMs === undefined ? {} : { ttl: options.ttlMs }),
      }),
    within,
  );
  const find = async (key: string): Promise<KvEntry | undefined> => {
    const entry = await connection.attempt(async () => await kv.get(checkKey(key)), within);
    return entry === null || entry.operation !== 'PUT' ? undefined : entry;
  };
  const get = async (key: string): Promise<Entry<Read> | undefined> => {
    const found = await find(key);
    return found === undefined
      ? undefined
      : { key, value: codec.decode(found.value), revision: found.revision };
  };
  /**
   * A conditional write whose answer was lost is repeated and then conflicts with itself: if what is there is what we
   * wrote, it was us.
   */
  const conditional = async (
    key: string,
    value: Written,
    write: (bytes: Uint8Array) => Promise<number>,
    conflict: (cause: unknown) => PlumbError,
  ): Promise<number> => {
    const bytes = codec.encode(value);
    let repeated = false;
    try {
      return await connection.attempt(async () => await write(bytes), {
        ...within,
        onRetry: () => {
          repeated = true;
        },
      });
    } catch (thrown) {
      const error = PlumbError.from(thrown);
      if (error.reason !== 'REVISION_CONFLICT') throw error;
      if (repeated) {
        const found = await find(key);
        if (found !== undefined && Buffer.from(found.value).equals(bytes)) return found.revision;
      }
      throw conflict(error);
    }
  };
  const keys = async (filter = '>'): Promise<string[]> =>
    await connection.attempt(async () => {
      const found: string[] = [];
      for await (const key of await kv.keys(filter)) found.push(key);
      return found.toSorted();
    }, within);

  return {
    get,
    keys,
    put: async (key, value) => {
      const bytes = codec.encode(value);
      return await connection.attempt(async () => await kv.put(checkKey(key), bytes), within);
    },
    create: async (key, value) =>
      await conditional(
        checkKey(key),
        value,
        async (bytes) => await kv.create(key, bytes),
        (cause) => alreadyExists(`key of ${bucket}`, key, { cause }),
      ),
    update: async (key, value, revision) =>
      await conditional(
        checkKey(key),
        value,
        async (bytes) => await kv.update(key, bytes, revision),
        (cause) =>
          aborted(`key '${key}' of ${bucket} is newer than revision ${revision}; read it and try again`, {
            cause,
          }),
      ),
    delete: async (key) => {
      await connection.attempt(async () => {
        await kv.delete(checkKey(key));
      }, within);
    },
    entries: async (filter) => {
      const found: Entry<Read>[] = [];
      for (const key of await keys(filter)) {
        const entry = await get(key);
        if (entry !== undefined) found.push(entry);
      }
      return found;
    },
    watch: ({ key = '>', signal }) => watch(connection, kv, bucket, codec, key, signal),
  };
}

async function* watch<Read, Written>(
  connection: Connection,
  kv: KV,
  bucket: string,
  codec: Codec<Read, Written>,
  key: string,
  signal: AbortSignal,
): AsyncGenerator<Change<Read>> {
  const log = logger('bus');
  let seen = 0;
  while (!signal.aborted && !connection.nats.isClosed()) {
    let changes: QueuedIterator<KvWatchEntry> | undefined;
    let takeAway: (() => void) | undefined;
    const end = (): void => {
      changes?.stop();
    };
    signal.addEventListener('abort', end, { once: true });
    try {
      await connection.connected(signal);
      // Begun anew after each break: the present values come again, and those that are known are passed over.
      changes = await kv.watch({ key });
      takeAway = connection.onBroken(end);
      for await (const entry of changes) {
        if (entry.revision <= seen) continue;
        seen = entry.revision;
        const value = entry.operation === 'PUT' ? codec.decode(entry.value) : undefined;
        yield { key: entry.key, value, revision: entry.revision };
      }
    } catch (thrown) {
      if (signal.aborted) return;
      const error = PlumbError.from(thrown);
      if (!error.retryable) throw error;
      log.debug({ error, bucket }, 'watching failed; trying again');
    } finally {
      signal.removeEventListener('abort', end);
      takeAway?.();
      changes?.stop();
    }
    if (!signal.aborted) await delay(50);
  }
}

function checkKey(key: string): string {
  if (!/^[-/=.\w]+$/.test(key) || key.startsWith('.') || key.endsWith('.')) {
    throw invalidArgument('key', `is '${key}'; use letters, digits and -_=./ with no dot at either end`);
  }
  return key;
}
