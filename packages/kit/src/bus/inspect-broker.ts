import { Connection } from './connection.ts';
import type { ConnectOptions } from './connection.ts';
import { plumbStreams } from './streams.ts';

/** A stream of the platform as the broker has it. */
export interface InspectedStream {
  readonly name: string;
  /** False where no service has made it yet. */
  readonly there: boolean;
  readonly messages: number;
  /** Largest of messages and bytes, as a share of what the stream takes before it refuses more; 0 to 1. */
  readonly full: number;
}

/** What a broker says of itself. Nothing is made or changed by asking. */
export interface BrokerReport {
  readonly version: string;
  readonly streams: readonly InspectedStream[];
  /** Storage of JetStream that is taken, in bytes. */
  readonly storageBytes: number;
  /** Largest storage of this account, in bytes; undefined where it has no limit of its own. */
  readonly storageLimitBytes: number | undefined;
}

/**
 * Asks a broker for its version, its storage and the streams of the platform.
 *
 * @throws PlumbError UNAVAILABLE, reason BROKER_UNAVAILABLE; FAILED_PRECONDITION when it runs without JetStream;
 *   PERMISSION_DENIED when the user may not ask
 */
export async function inspectBroker(options: ConnectOptions): Promise<BrokerReport> {
  const connection = await Connection.open(options);
  try {
    const account = await connection.attempt(async () => await connection.manager.getAccountInfo(), {
      deadlineMs: 5000,
    });
    const standing = await connection.attempt(
      async () => {
        const found = new Map<string, { readonly messages: number; readonly bytes: number }>();
        for await (const { config, state } of connection.manager.streams.list())
          found.set(config.name, state);
        return found;
      },
      { deadlineMs: 5000 },
    );
    const streams = plumbStreams.map(({ name, maxMessages, maxBytes }): InspectedStream => {
      const state = standing.get(name);
      return {
        name,
        there: state !== undefined,
        messages: state?.messages ?? 0,
        full: state === undefined ? 0 : Math.max(state.messages / maxMessages, state.bytes / maxBytes),
      };
    });
    const { max_storage: limit } = account.limits;
    return {
      version: connection.nats.info?.version ?? '',
      streams,
      storageBytes: account.storage,
      storageLimitBytes: limit > 0 ? limit : undefined,
    };
  } finally {
    await connection.close();
  }
}
