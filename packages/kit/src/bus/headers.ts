import type { DescMessage } from '@bufbuild/protobuf';
import type { MsgHdrs } from '@nats-io/nats-core';
import { headers } from '@nats-io/transport-node';
import type { Carrier } from '../telemetry/carrier.ts';

/** Deduplication id. Source: NATS documentation, "Headers". */
export const idHeader = 'Nats-Msg-Id';
/** Full name of the message's type, so that people and tools can decode what they find in a stream. */
export const typeHeader = 'Plumb-Type';

const traceHeaders = ['traceparent', 'tracestate'] as const;

/** Headers of a message of a type, with the trace context. */
export function messageHeaders(schema: DescMessage | undefined, carrier: Carrier): MsgHdrs {
  const made = headers();
  if (schema !== undefined) made.set(typeHeader, schema.typeName);
  for (const [key, value] of Object.entries(carrier)) made.set(key, value);
  return made;
}

/** A header's value; undefined when it is absent (the client says '' then). */
export function headerOf(from: MsgHdrs | undefined, name: string): string | undefined {
  const value = from?.get(name);
  return value === undefined || value === '' ? undefined : value;
}

/** The trace context that came with a message. */
export function carrierOf(from: MsgHdrs | undefined): Carrier {
  const carrier: Record<string, string> = {};
  for (const name of traceHeaders) {
    const value = headerOf(from, name);
    if (value !== undefined) carrier[name] = value;
  }
  return carrier;
}
