import { metrics } from '@opentelemetry/api';
import { CompositePropagator, W3CTraceContextPropagator } from '@opentelemetry/core';
import { OTLPMetricExporter } from '@opentelemetry/exporter-metrics-otlp-proto';
import { PrometheusExporter } from '@opentelemetry/exporter-prometheus';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { MeterProvider, PeriodicExportingMetricReader } from '@opentelemetry/sdk-metrics';
import type { IMetricReader } from '@opentelemetry/sdk-metrics';
import { AlwaysOffSampler, NodeTracerProvider } from '@opentelemetry/sdk-trace-node';
import { ATTR_SERVICE_NAME, ATTR_SERVICE_VERSION } from '@opentelemetry/semantic-conventions';
import { ATTR_SERVICE_INSTANCE_ID } from '@opentelemetry/semantic-conventions/incubating';
import type { Level } from 'pino';
import { CountedSpans } from './counted-spans.ts';
import { logger, setLogLevel } from './logger.ts';
import { serveMetrics } from './metrics-endpoint.ts';
import { observeProcess } from './process-metrics.ts';
import { OpenSpans } from './open-spans.ts';
import type { SpanDestination } from './open-spans.ts';
import { headSampler, NotableSpans } from './sampling.ts';
import { SpanFile } from './span-file.ts';
import { WholeWork } from './whole-work.ts';
import { WorkAttributes } from './work-ids.ts';

export interface TelemetryOptions {
  /** Resource name of the process, for example plumb-reward. */
  readonly service: string;
  readonly version: string;
  /** Folder of the local span files; none are written without it. */
  readonly spanDirectory?: string | undefined;
  /** OTLP/HTTP base URL; the variable OTEL_EXPORTER_OTLP_ENDPOINT by default, no export when both are absent. */
  readonly otlpEndpoint?: string | undefined;
  /** Address of the Prometheus endpoint, 127.0.0.1 by default. */
  readonly metricsHost?: string;
  /** 0, the default, takes a free port. */
  readonly metricsPort?: number;
  /** Whether the process serves; the metrics endpoint answers /readyz by it. Always by default. */
  readonly isReady?: () => boolean;
  readonly logLevel?: Level;
  /** False writes no spans, to no destination; true by default. */
  readonly traces?: boolean;
  /** Share of traces whose spans are written, 0 to 1, decided where a trace begins; 1 by default. */
  readonly traceRatio?: number;
  /** A span of another trace that lasts this long is kept with its trace, like one that failed; 60 s by default. */
  readonly slowSeconds?: number;
}

export interface Telemetry {
  /** `host:port` of the Prometheus endpoint. */
  readonly metricsAddress: string;
  /** Writes out what is pending and stops. An unreachable collector delays it by 4 s at most and loses its spans only. */
  shutdown(): Promise<void>;
}

// A collector that is down must cost nothing: few spans are kept for it and no export holds up the end of a process.
const otlpTimeoutMs = 2000;

/**
 * Starts traces, metrics and logs of a process: once, first of all, in main.
 *
 * @throws PlumbError PORT_IN_USE when the metrics port is taken
 */
export async function startTelemetry(options: TelemetryOptions): Promise<Telemetry> {
  if (options.logLevel !== undefined) setLogLevel(options.logLevel);
  const log = logger('telemetry');
  const resource = resourceFromAttributes({
    [ATTR_SERVICE_NAME]: options.service,
    [ATTR_SERVICE_VERSION]: options.version,
    [ATTR_SERVICE_INSTANCE_ID]: `${options.service}-${process.pid}`,
  });
  const otlp = (options.otlpEndpoint ?? process.env['OTEL_EXPORTER_OTLP_ENDPOINT'])?.replace(/\/+$/, '');

  const destinations = new Map<SpanDestination, CountedSpans>();
  const traces = options.traces ?? true;
  const toFile = traces ? options.spanDirectory : undefined;
  const toCollector = traces && otlp !== undefined && otlp !== '';
  const openSpans =
    toFile === undefined
      ? undefined
      : new OpenSpans(toFile, options.service, toCollector ? ['file', 'collector'] : ['file']);
  if (toFile !== undefined) {
    destinations.set(
      'file',
      new CountedSpans(new SpanFile(toFile, options.service), {
        destination: 'file',
        maxQueueSize: 8192,
        delayMs: 250,
        maxBatchSize: 1024,
        timeoutMs: 10_000,
        settled: (spans) => openSpans?.settled('file', spans),
      }),
    );
  }
  if (toCollector) {
    destinations.set(
      'collector',
      new CountedSpans(new OTLPTraceExporter({ url: `${otlp}/v1/traces`, timeoutMillis: otlpTimeoutMs }), {
        destination: 'collector',
        maxQueueSize: 8192,
        delayMs: 1000,
        maxBatchSize: 512,
        timeoutMs: otlpTimeoutMs,
        settled: (spans) => openSpans?.settled('collector', spans),
      }),
    );
  }
  const notable = new NotableSpans([...destinations.values()], (options.slowSeconds ?? 60) * 1000);
  const tracerProvider = new NodeTracerProvider({
    resource,
    // Without a destination nothing is recorded; ids are made and passed on all the same.
    sampler: destinations.size === 0 ? new AlwaysOffSampler() : headSampler(options.traceRatio ?? 1),
    spanProcessors:
      destinations.size === 0
        ? []
        : [
            new WorkAttributes(),
            ...(openSpans === undefined ? [] : [openSpans]),
            new WholeWork(notable, (parentId) => openSpans?.note(parentId)),
          ],
  });
  tracerProvider.register({
    propagator: new CompositePropagator({
      propagators: [
        new W3CTraceContextPropagator(),
        ...(openSpans === undefined ? [] : [openSpans.propagator]),
      ],
    }),
  });
  for (const { span, missing } of openSpans?.takeOver(resource) ?? []) {
    for (const destination of missing) destinations.get(destination)?.onEnd(span);
  }

  const prometheus = new PrometheusExporter({ preventServerStart: true });
  const readers: IMetricReader[] = [prometheus];
  if (otlp !== undefined && otlp !== '') {
    readers.push(
      new PeriodicExportingMetricReader({
        exporter: new OTLPMetricExporter({ url: `${otlp}/v1/metrics`, timeoutMillis: otlpTimeoutMs }),
        exportIntervalMillis: 10_000,
        exportTimeoutMillis: otlpTimeoutMs,
      }),
    );
  }
  const meterProvider = new MeterProvider({ resource, readers });
  metrics.setGlobalMeterProvider(meterProvider);
  observeProcess(meterProvider);
  const endpoint = await serveMetrics(
    prometheus,
    options.metricsHost ?? '127.0.0.1',
    options.metricsPort ?? 0,
    options.isReady,
  );

  return {
    metricsAddress: endpoint.address,
    shutdown: async () => {
      // The metrics last: they count the spans that could not be written.
      const results = [
        ...(await Promise.allSettled([tracerProvider.shutdown()])),
        ...(await Promise.allSettled([Promise.resolve().then(() => openSpans?.close())])),
        ...(await Promise.allSettled([meterProvider.shutdown(), endpoint.close()])),
      ];
      for (const result of results) {
        if (result.status === 'rejected')
          log.warn({ error: result.reason }, 'telemetry was not all written out');
      }
    },
  };
}
