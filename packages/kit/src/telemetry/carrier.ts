import { context, isSpanContextValid, propagation, ROOT_CONTEXT, trace } from '@opentelemetry/api';
import type { Context, Link } from '@opentelemetry/api';

/**
 * Trace context as plain text: the `traceparent` and `tracestate` of W3C Trace Context. It travels in message headers,
 * gRPC metadata and stored records; business code never looks inside.
 */
export type Carrier = Readonly<Record<string, string>>;

/** The trace context of the running code (or of the given one). Empty outside of any span. */
export function currentCarrier(of: Context = context.active()): Carrier {
  const carrier: Record<string, string> = {};
  propagation.inject(of, carrier);
  return carrier;
}

/** A context whose current span is the carrier's; the root context when it carries none. */
export function contextFromCarrier(carrier: Carrier): Context {
  return propagation.extract(ROOT_CONTEXT, carrier);
}

/** A link to the carrier's span; undefined when it carries none. */
export function linkTo(carrier: Carrier): Link | undefined {
  const span = trace.getSpanContext(contextFromCarrier(carrier));
  return span !== undefined && isSpanContextValid(span) ? { context: span } : undefined;
}
