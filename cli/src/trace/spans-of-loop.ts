import { invalidArgument } from '@plumb/kit/errors';
import type { SpanRecord } from '@plumb/kit/telemetry';
import type { TraceSpan } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ConnectionOptions } from '../commands/connection-options.ts';
import { openLoop } from '../runs/loop-client.ts';
import type { Subject } from './subject.ts';

type SingleTrace = Exclude<Subject, { kind: 'run' }>;

/**
 * The spans of a sample or a trace from the loop service at an address, which reads them where the services write them.
 * @throws PlumbError INVALID_ARGUMENT without an id, NOT_FOUND, and FAILED_PRECONDITION where the loop reads no span files
 */
export async function spansOfLoop(
  id: string | undefined,
  where: ConnectionOptions & { readonly address: string },
): Promise<{ readonly subject: SingleTrace; readonly spans: readonly SpanRecord[] }> {
  if (id === undefined) {
    throw invalidArgument('id', 'is missing; at an address, give the whole id of a sample, or of a trace');
  }
  const clients = await openLoop(where);
  try {
    const ofTrace = /^[0-9a-f]{32}$/.test(id) ? (await clients.loop.getTrace({ traceId: id })).spans : [];
    if (ofTrace.length > 0) {
      return { subject: { kind: 'trace', id, traceIds: new Set([id]) }, spans: ofTrace.map(record(id)) };
    }
    const { sample } = await clients.loop.getSample({ id });
    const traceId = sample?.traceId ?? '';
    const { spans } = await clients.loop.getTrace({ traceId });
    return {
      subject: { kind: 'sample', id, traceIds: new Set([traceId]) },
      spans: spans.map(record(traceId)),
    };
  } finally {
    clients.close();
  }
}

const kinds = new Set<SpanRecord['kind']>(['internal', 'server', 'client', 'producer', 'consumer']);

function record(traceId: string): (span: TraceSpan) => SpanRecord {
  return ({
    spanId,
    parentSpanId,
    name,
    kind,
    service,
    startMs,
    endMs,
    failed,
    statusMessage,
    attributes,
  }) => ({
    traceId,
    spanId,
    ...(parentSpanId === '' ? {} : { parentSpanId }),
    name,
    kind: [...kinds].find((known) => known === kind) ?? 'internal',
    service,
    startMs,
    endMs,
    status: failed ? 'error' : 'unset',
    ...(statusMessage === '' ? {} : { statusMessage }),
    attributes,
    events: [],
    links: [],
  });
}
