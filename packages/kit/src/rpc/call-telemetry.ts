import { SpanKind, trace } from '@opentelemetry/api';
import type { Attributes, Context, Span } from '@opentelemetry/api';
import type { DescMethod } from '@bufbuild/protobuf';
import type { Metadata } from '@grpc/grpc-js';
import { ATTR_ERROR_TYPE, ATTR_SERVER_ADDRESS, ATTR_SERVER_PORT } from '@opentelemetry/semantic-conventions';
import {
  ATTR_RPC_METHOD,
  ATTR_RPC_RESPONSE_STATUS_CODE,
  ATTR_RPC_SYSTEM_NAME,
} from '@opentelemetry/semantic-conventions/incubating';
import { splitAddress } from '../config/service-settings.ts';
import { PlumbError } from '../errors/plumb-error.ts';
import { contextFromCarrier, currentCarrier } from '../telemetry/carrier.ts';
import { durationBuckets, histogram } from '../telemetry/instruments.ts';
import { recordError, startSpan } from '../telemetry/spans.ts';
import { withCarriedWork, workCarrier } from '../telemetry/work-ids.ts';

const advice = { explicitBucketBoundaries: durationBuckets };
const durations = {
  client: histogram('plumb.rpc', 'rpc.client.call.duration', {
    description: 'Duration of outgoing calls',
    unit: 's',
    advice,
  }),
  server: histogram('plumb.rpc', 'rpc.server.call.duration', {
    description: 'Duration of incoming calls',
    unit: 's',
    advice,
  }),
};

/** The span and the measurement of one call, by the RPC semantic conventions. */
export interface CallRecord {
  readonly span: Span;
  /** The context that the call's work runs in. */
  readonly context: Context;
  /** Ends both, once; the first end counts. */
  end(thrown?: unknown): void;
}

/** Begins the record of an incoming call, under the span that its metadata names. */
export function serverCall(method: DescMethod, metadata: Metadata): CallRecord {
  const carrier: Record<string, string> = {};
  for (const key of ['traceparent', 'tracestate', 'baggage']) {
    const value = metadata.get(key)[0];
    if (typeof value === 'string') carrier[key] = value;
  }
  return record('server', method, SpanKind.SERVER, {}, withCarriedWork(carrier, contextFromCarrier(carrier)));
}

/** Begins the record of an outgoing call and writes its trace context into the metadata. */
export function clientCall(method: DescMethod, address: string, metadata: Metadata): CallRecord {
  const { host, port } = splitAddress(address.replace(/^[a-z]+:\/*/, ''));
  const server: Attributes = Number.isInteger(port)
    ? { [ATTR_SERVER_ADDRESS]: host, [ATTR_SERVER_PORT]: port }
    : { [ATTR_SERVER_ADDRESS]: address };
  const call = record('client', method, SpanKind.CLIENT, server, undefined);
  const carrier = { ...currentCarrier(call.context), ...workCarrier(call.context) };
  for (const [key, value] of Object.entries(carrier)) metadata.set(key, value);
  return call;
}

function record(
  side: 'client' | 'server',
  method: DescMethod,
  kind: SpanKind,
  extra: Attributes,
  parent: Context | undefined,
): CallRecord {
  const name = `${method.parent.typeName}/${method.name}`;
  const attributes = { [ATTR_RPC_SYSTEM_NAME]: 'grpc', [ATTR_RPC_METHOD]: name, ...extra };
  const { span, context } = startSpan(trace.getTracer('plumb.rpc'), name, {
    kind,
    attributes,
    ...(parent === undefined ? {} : { parent }),
  });
  const startedMs = performance.now();
  let ended = false;
  return {
    span,
    context,
    end: (thrown) => {
      if (ended) return;
      ended = true;
      const code = thrown === undefined ? 'OK' : PlumbError.from(thrown).code;
      span.setAttribute(ATTR_RPC_RESPONSE_STATUS_CODE, code);
      if (thrown !== undefined) recordError(span, thrown);
      span.end();
      durations[side].record((performance.now() - startedMs) / 1000, {
        ...attributes,
        [ATTR_RPC_RESPONSE_STATUS_CODE]: code,
        ...(thrown === undefined ? {} : { [ATTR_ERROR_TYPE]: code }),
      });
    },
  };
}
