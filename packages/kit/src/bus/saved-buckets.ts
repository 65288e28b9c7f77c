import { Kvm } from '@nats-io/kv';
import { failedPrecondition } from '../errors/shorthand.ts';
import { Connection } from './connection.ts';
import type { ConnectOptions } from './connection.ts';

/** A key-value bucket as a backup holds it: the newest value of every key. */
export interface SavedBucket {
  readonly name: string;
  /** Revisions kept of each key. */
  readonly history: number;
  /** Largest size, in bytes. */
  readonly maxBytes: number;
  /** Milliseconds after which keys vanish; 0 is never. */
  readonly ttlMs: number;
  readonly entries: readonly { readonly key: string; readonly value: Uint8Array }[];
}

/** All buckets of the platform begin so; a stream of a bucket has another prefix before it. */
const bucketPrefix = 'plumb_';
const streamPrefix = `KV_${bucketPrefix}`;

/**
 * Reads every bucket of the platform. Nothing is made or changed.
 * @throws PlumbError UNAVAILABLE, reason BROKER_UNAVAILABLE
 */
export async function saveBuckets(options: ConnectOptions): Promise<SavedBucket[]> {
  const connection = await Connection.open(options);
  try {
    const saved: SavedBucket[] = [];
    for await (const { config } of connection.manager.streams.list()) {
      if (!config.name.startsWith(streamPrefix)) continue;
      const name = config.name.slice('KV_'.length);
      const bucket = await new Kvm(connection.js).open(name);
      const entries: { key: string; value: Uint8Array }[] = [];
      const keys: string[] = [];
      for await (const key of await bucket.keys()) keys.push(key);
      for (const key of keys.toSorted()) {
        const entry = await bucket.get(key);
        // Deleted since the list was made.
        if (entry?.operation === 'PUT') entries.push({ key, value: entry.value });
      }
      saved.push({
        name,
        history: config.max_msgs_per_subject,
        maxBytes: config.max_bytes,
        ttlMs: config.max_age / 1e6,
        entries,
      });
    }
    return saved;
  } finally {
    await connection.close();
  }
}

/**
 * Makes the buckets with their entries.
 * @throws PlumbError FAILED_PRECONDITION when one of them has entries already; nothing is written then
 */
export async function restoreBuckets(
  options: ConnectOptions,
  buckets: readonly SavedBucket[],
): Promise<void> {
  const connection = await Connection.open(options);
  try {
    for await (const { config, state } of connection.manager.streams.list()) {
      if (state.messages > 0 && buckets.some(({ name }) => config.name === `KV_${name}`)) {
        throw failedPrecondition(
          `the broker's bucket ${config.name.slice('KV_'.length)} has entries already; restore into an empty broker`,
        );
      }
    }
    for (const { name, history, maxBytes, ttlMs, entries } of buckets) {
      const bucket = await new Kvm(connection.js).create(name, {
        history,
        max_bytes: maxBytes,
        replicas: connection.replicas,
        allow_direct: false,
        ...(ttlMs === 0 ? {} : { ttl: ttlMs }),
      });
      for (const { key, value } of entries) await bucket.put(key, value);
    }
  } finally {
    await connection.close();
  }
}
