import { metrics, trace } from '@opentelemetry/api';
import type { Meter, Tracer } from '@opentelemetry/api';

export { SpanKind } from '@opentelemetry/api';

/** `@plumb/kit/telemetry`: traces, metrics and logs. */
export { contextFromCarrier, currentCarrier, linkTo } from './telemetry/carrier.ts';
export type { Carrier } from './telemetry/carrier.ts';
export {
  counter,
  durationBuckets,
  gauge,
  histogram,
  recentGauge,
  upDownCounter,
} from './telemetry/instruments.ts';
export { createLogger, logger, setLogLevel } from './telemetry/logger.ts';
export type { Logger } from './telemetry/logger.ts';
export { recordRetry, withRetry } from './telemetry/retries.ts';
export type { Retry } from './telemetry/retries.ts';
export { SpanFile } from './telemetry/span-file.ts';
export type { SpanRecord } from './telemetry/span-record.ts';
export { recordError, startSpan, withSpan } from './telemetry/spans.ts';
export type { SpanStart } from './telemetry/spans.ts';
export { startTelemetry } from './telemetry/start-telemetry.ts';
export type { Telemetry, TelemetryOptions } from './telemetry/start-telemetry.ts';
export { withWork } from './telemetry/work-ids.ts';
export type { WorkIds } from './telemetry/work-ids.ts';

/** The tracer of a part of a service. */
export function tracer(name: string): Tracer {
  return trace.getTracer(name);
}

/** The meter of a part of a service; valid after `startTelemetry` only (`counter`, `histogram` can be made any time). */
export function meter(name: string): Meter {
  return metrics.getMeter(name);
}
