import { context, propagation } from '@opentelemetry/api';
import type { Attributes, Context } from '@opentelemetry/api';
import { W3CBaggagePropagator } from '@opentelemetry/core';
import type { Span, SpanProcessor } from '@opentelemetry/sdk-trace-node';
import type { Carrier } from './carrier.ts';

/** Ids that every log line and span about a piece of work carries: the name in log lines, and the attribute. */
const workIds = {
  runId: 'plumb.run.id',
  iteration: 'plumb.iteration',
  sampleId: 'plumb.sample.id',
  jobId: 'plumb.job.id',
} as const;

/** Whose work is done; what is absent or empty is left out. */
export type WorkIds = Readonly<Partial<Record<keyof typeof workIds, string | number | undefined>>>;

// Ids are ours and short; what a stranger sends in their place is not.
const longestId = 200;
const baggage = new W3CBaggagePropagator();

/** The context in which work for these is done. It goes on to our own services with every call. */
export function withWork(ids: WorkIds, of: Context = context.active()): Context {
  let carried = propagation.getBaggage(of) ?? propagation.createBaggage();
  for (const [name, attribute] of Object.entries(workIds)) {
    const value = ids[name as keyof typeof workIds];
    if (value !== undefined && value !== '') carried = carried.setEntry(attribute, { value: String(value) });
  }
  return propagation.setBaggage(of, carried);
}

/** The ids of the running code, under their names in log lines. */
export function currentWork(of: Context = context.active()): Record<string, string> {
  const carried = propagation.getBaggage(of);
  const ids: Record<string, string> = {};
  if (carried === undefined) return ids;
  for (const [name, attribute] of Object.entries(workIds)) {
    const value = carried.getEntry(attribute)?.value;
    if (value !== undefined && value.length <= longestId) ids[name] = value;
  }
  return ids;
}

/** The same as plain text for a call of our own services, by W3C Baggage. Nothing of it goes to endpoints of others. */
export function workCarrier(of: Context): Carrier {
  const carrier: Record<string, string> = {};
  baggage.inject(of, carrier, {
    set: (into, key, value) => {
      into[key] = value;
    },
  });
  return carrier;
}

/** A context with the ids of a carrier. */
export function withCarriedWork(carrier: Carrier, of: Context): Context {
  return baggage.extract(of, carrier, {
    get: (from, key) => from[key],
    keys: (from) => Object.keys(from),
  });
}

/** Gives every span the ids of the work that it is part of, where it does not say them itself. */
export class WorkAttributes implements SpanProcessor {
  onStart(span: Span, parent: Context): void {
    const missing: Attributes = {};
    for (const [name, value] of Object.entries(currentWork(parent))) {
      const attribute = workIds[name as keyof typeof workIds];
      if (span.attributes[attribute] === undefined) {
        missing[attribute] = name === 'iteration' ? Number(value) : value;
      }
    }
    span.setAttributes(missing);
  }

  onEnd(): void {
    // Attributes are given at the start.
  }

  async forceFlush(): Promise<void> {
    // Nothing is kept.
  }

  async shutdown(): Promise<void> {
    // Nothing is kept.
  }
}
