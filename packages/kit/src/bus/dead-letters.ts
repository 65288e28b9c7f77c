import type { JsMsg, StoredMsg } from '@nats-io/jetstream';
import type { MsgHdrs } from '@nats-io/nats-core';
import { headers } from '@nats-io/transport-node';
import { isErrorCode } from '../errors/codes.ts';
import type { ErrorCode } from '../errors/codes.ts';
import { describeError } from '../errors/plumb-error.ts';
import type { PlumbError } from '../errors/plumb-error.ts';
import { notFound } from '../errors/shorthand.ts';
import type { Connection } from './connection.ts';
import { headerOf, idHeader } from './headers.ts';
import { busMetrics } from './message-telemetry.ts';
import { publishBytes } from './publish.ts';
import { deadLetterPrefix, streamNames } from './streams.ts';

/** A message that was given up, as it was, with why. */
export interface DeadLetter {
  /** Its place among the dead letters; what `replay` takes. */
  readonly sequence: number;
  /** Where it was published first. */
  readonly subject: string;
  readonly id: string;
  readonly stream: string;
  readonly consumer: string;
  readonly code: ErrorCode;
  readonly reason: string;
  /** The error with its causes; may hold detail that is not for callers. */
  readonly message: string;
  readonly deliveries: number;
  readonly at: Date;
  /** The encoded message. */
  readonly data: Uint8Array;
}

export interface DeadLetters {
  /** In the order of their arrival, 100 by default, from behind `after`. */
  list(options?: { readonly limit?: number; readonly after?: number }): Promise<DeadLetter[]>;
  /** Publishes a dead letter again where it came from and removes it. @throws PlumbError NOT_FOUND */
  replay(sequence: number): Promise<void>;
  count(): Promise<number>;
}

const header = {
  subject: 'Plumb-Dead-Subject',
  id: 'Plumb-Dead-Id',
  stream: 'Plumb-Dead-Stream',
  consumer: 'Plumb-Dead-Consumer',
  code: 'Plumb-Dead-Code',
  reason: 'Plumb-Dead-Reason',
  message: 'Plumb-Dead-Message',
  deliveries: 'Plumb-Dead-Deliveries',
} as const;

// Longer texts are in the log; a header is no place for a stack.
const longestMessage = 500;
const ownHeaders: ReadonlySet<string> = new Set([...Object.values(header), idHeader]);

/** Stores a message as a dead letter. Done twice, it is stored once. */
export async function writeDeadLetter(
  connection: Connection,
  delivered: JsMsg,
  error: PlumbError,
  signal: AbortSignal,
): Promise<void> {
  const { stream, consumer, deliveryCount } = delivered.info;
  const made = copyHeaders(delivered.headers);
  const text = describeError(error).slice(0, longestMessage);
  made.set(header.subject, delivered.subject);
  made.set(header.id, headerOf(delivered.headers, idHeader) ?? `${stream}-${delivered.seq}`);
  made.set(header.stream, stream);
  made.set(header.consumer, consumer);
  made.set(header.code, error.code);
  made.set(header.reason, error.reason);
  // Header values are Latin text on one line.
  made.set(header.message, text.replaceAll(/[^\x20-\x7e]/g, '?'));
  made.set(header.deliveries, String(deliveryCount));
  await publishBytes(connection, `${deadLetterPrefix}.${stream}.${consumer}`, delivered.data, made, {
    id: `dead-${stream}-${delivered.seq}`,
    signal,
  });
  busMetrics.deadLetters.add(1, {
    'messaging.destination.name': delivered.subject,
    'plumb.error.reason': error.reason,
  });
}

/** Access to the dead letters. */
export function openDeadLetters(connection: Connection, deadlineMs: number): DeadLetters {
  const stream = streamNames.deadLetters;
  const { direct, streams } = connection.manager;
  const first = async (sequence: number): Promise<StoredMsg | null> =>
    await connection.attempt(
      async () => await direct.getMessage(stream, { seq: sequence, next_by_subj: `${deadLetterPrefix}.>` }),
      { deadlineMs },
    );
  return {
    list: async ({ limit = 100, after = 0 } = {}) => {
      const found: DeadLetter[] = [];
      let next = after + 1;
      while (found.length < limit) {
        const stored = await first(next);
        if (stored === null) break;
        found.push(toDeadLetter(stored));
        next = stored.seq + 1;
      }
      return found;
    },
    replay: async (sequence) => {
      const stored = await first(sequence);
      if (stored?.seq !== sequence) {
        throw notFound('dead letter', String(sequence), {
          fix: 'list the dead letters for those that exist',
        });
      }
      const letter = toDeadLetter(stored);
      const made = headers();
      for (const name of stored.header.keys()) {
        if (!ownHeaders.has(name)) for (const value of stored.header.values(name)) made.append(name, value);
      }
      // Another id than the first time: that one may still be within the duplicate window.
      await publishBytes(connection, letter.subject, stored.data, made, {
        id: `${letter.id}-replay-${sequence}`,
      });
      await connection.attempt(
        async () => {
          const missing = (await first(sequence))?.seq !== sequence;
          if (!missing) await streams.deleteMessage(stream, sequence);
        },
        { deadlineMs },
      );
    },
    count: async () =>
      await connection.attempt(async () => (await streams.info(stream)).state.messages, { deadlineMs }),
  };
}

function toDeadLetter(stored: StoredMsg): DeadLetter {
  const value = (name: string): string => headerOf(stored.header, name) ?? '';
  const code = value(header.code);
  return {
    sequence: stored.seq,
    subject: value(header.subject),
    id: value(header.id),
    stream: value(header.stream),
    consumer: value(header.consumer),
    code: isErrorCode(code) ? code : 'UNKNOWN',
    reason: value(header.reason),
    message: value(header.message),
    deliveries: Number(value(header.deliveries)),
    at: stored.time,
    data: stored.data,
  };
}

function copyHeaders(from: MsgHdrs | undefined): MsgHdrs {
  const made = headers();
  for (const name of from?.keys() ?? []) {
    if (name !== idHeader) for (const value of from?.values(name) ?? []) made.append(name, value);
  }
  return made;
}
