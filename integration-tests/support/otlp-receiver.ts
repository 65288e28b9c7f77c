import { once } from 'node:events';
import { createServer } from 'node:http';
import protobuf from 'protobufjs';
import { z } from 'zod';

/*
 * The part of the OpenTelemetry protocol that is looked at here. Source: opentelemetry-proto 1.x, trace.proto, metrics.proto,
 * common.proto, resource.proto; fields that are left out are skipped by the decoder.
 */
const contract = `
syntax = "proto3";
message AnyValue { oneof value { string s = 1; bool b = 2; int64 i = 3; double d = 4; } }
message KeyValue { string key = 1; AnyValue value = 2; }
message Resource { repeated KeyValue attributes = 1; }
message Link { bytes trace_id = 1; bytes span_id = 2; }
message Status { string message = 2; int32 code = 3; }
message Span {
  bytes trace_id = 1; bytes span_id = 2; bytes parent_span_id = 4; string name = 5; int32 kind = 6;
  repeated KeyValue attributes = 9; repeated Link links = 13; Status status = 15;
}
message ScopeSpans { repeated Span spans = 2; }
message ResourceSpans { Resource resource = 1; repeated ScopeSpans scope_spans = 2; }
message Traces { repeated ResourceSpans resource_spans = 1; }
message Gauge {}
message Sum { bool is_monotonic = 3; }
message Histogram {}
message Metric { string name = 1; string unit = 3; oneof data { Gauge gauge = 5; Sum sum = 7; Histogram histogram = 9; } }
message ScopeMetrics { repeated Metric metrics = 2; }
message ResourceMetrics { Resource resource = 1; repeated ScopeMetrics scope_metrics = 2; }
message Metrics { repeated ResourceMetrics resource_metrics = 1; }
`;

const attributesSchema = z
  .array(
    z.object({
      key: z.string(),
      value: z.object({ s: z.string(), b: z.boolean(), i: z.string(), d: z.number() }).partial().optional(),
    }),
  )
  .default([])
  .transform((all) =>
    Object.fromEntries(
      all.map(({ key, value }) => [
        key,
        value?.s ?? value?.b ?? value?.d ?? (value?.i === undefined ? '' : Number(value.i)),
      ]),
    ),
  );
const resourceSchema = z.object({ attributes: attributesSchema }).default({ attributes: {} });
/** Bytes as base64, which is how the decoder gives them. */
const id = z
  .string()
  .default('')
  .transform((base64) => Buffer.from(base64, 'base64').toString('hex'));
const spanSchema = z.object({
  traceId: id,
  spanId: id,
  parentSpanId: id,
  name: z.string(),
  attributes: attributesSchema,
  links: z.array(z.object({ traceId: id, spanId: id })).default([]),
  status: z.object({ message: z.string().default(''), code: z.number().default(0) }).optional(),
});
const tracesSchema = z.object({
  resourceSpans: z
    .array(
      z.object({
        resource: resourceSchema,
        scopeSpans: z.array(z.object({ spans: z.array(spanSchema).default([]) })).default([]),
      }),
    )
    .default([]),
});
const metricSchema = z.object({
  name: z.string(),
  unit: z.string().default(''),
  gauge: z.object({}).optional(),
  sum: z.object({ isMonotonic: z.boolean().default(false) }).optional(),
  histogram: z.object({}).optional(),
});
const metricsSchema = z.object({
  resourceMetrics: z
    .array(
      z.object({
        resource: resourceSchema,
        scopeMetrics: z.array(z.object({ metrics: z.array(metricSchema).default([]) })).default([]),
      }),
    )
    .default([]),
});

/** A span that has arrived. */
export type ReceivedSpan = z.infer<typeof spanSchema> & { readonly service: string };

/** A metric that has arrived, without its values. */
export interface ReceivedMetric {
  readonly name: string;
  readonly unit: string;
  readonly kind: 'counter' | 'up-down counter' | 'gauge' | 'histogram';
  readonly services: Set<string>;
}

/** A collector that keeps everything. */
export interface OtlpReceiver {
  /** Base URL, for OTEL_EXPORTER_OTLP_ENDPOINT. */
  readonly url: string;
  readonly spans: ReceivedSpan[];
  readonly metrics: Map<string, ReceivedMetric>;
  close(): void;
}

/** Starts a receiver of OTLP over HTTP with protobuf on a free port. */
export async function startOtlpReceiver(): Promise<OtlpReceiver> {
  const { root } = protobuf.parse(contract, { keepCase: false });
  const options = { bytes: String, longs: String } as const;
  const spans: ReceivedSpan[] = [];
  const metrics = new Map<string, ReceivedMetric>();

  const take = (path: string | undefined, body: Buffer): void => {
    const type = root.lookupType(path === '/v1/traces' ? 'Traces' : 'Metrics');
    const decoded = type.toObject(type.decode(body), options);
    if (path === '/v1/traces') {
      for (const { resource, scopeSpans } of tracesSchema.parse(decoded).resourceSpans) {
        const service = String(resource.attributes['service.name']);
        for (const span of scopeSpans.flatMap((scope) => scope.spans)) spans.push({ ...span, service });
      }
      return;
    }
    for (const { resource, scopeMetrics } of metricsSchema.parse(decoded).resourceMetrics) {
      const service = String(resource.attributes['service.name']);
      for (const metric of scopeMetrics.flatMap((scope) => scope.metrics)) {
        const known = metrics.get(metric.name) ?? {
          name: metric.name,
          unit: metric.unit,
          kind: kindOf(metric),
          services: new Set<string>(),
        };
        known.services.add(service);
        metrics.set(metric.name, known);
      }
    }
  };

  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      take(request.url, Buffer.concat(chunks));
      response.writeHead(200, { 'content-type': 'application/x-protobuf' }).end();
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const bound = server.address();
  if (bound === null || typeof bound === 'string') throw new TypeError('not listening on a port');
  return {
    url: `http://127.0.0.1:${bound.port}`,
    spans,
    metrics,
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}

function kindOf({ sum, histogram }: z.infer<typeof metricSchema>): ReceivedMetric['kind'] {
  if (histogram !== undefined) return 'histogram';
  if (sum === undefined) return 'gauge';
  return sum.isMonotonic ? 'counter' : 'up-down counter';
}
