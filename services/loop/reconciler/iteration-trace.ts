import type { Attributes, Context } from '@opentelemetry/api';
import { contextFromCarrier, currentCarrier, withSpan } from '@plumb/kit/telemetry';
import { findIteration, setIterationTrace } from '../adapters/ledger/runs.ts';
import { loopTracer } from './context.ts';
import type { LoopContext } from './context.ts';

/**
 * The trace of an iteration: its spans are children of a root that is written, whole, when the iteration begins and that the
 * ledger remembers. So a restarted loop goes on in the same trace, and a killed one leaves no trace without its root.
 */
export async function iterationContext(
  loop: LoopContext,
  key: { readonly runId: string; readonly iteration: number },
): Promise<Context> {
  const stored = (await findIteration(loop.database, key.runId, key.iteration))?.traceparent;
  if (stored !== null && stored !== undefined) return contextFromCarrier({ traceparent: stored });
  await withSpan(loopTracer, 'iteration', { root: true, attributes: iterationAttributes(key) }, async () => {
    const { traceparent } = currentCarrier();
    // Without a tracer there is no trace to remember.
    if (traceparent !== undefined) await setIterationTrace(loop.database, { ...key, traceparent });
  });
  const written = (await findIteration(loop.database, key.runId, key.iteration))?.traceparent;
  return contextFromCarrier(written === null || written === undefined ? {} : { traceparent: written });
}

export function iterationAttributes(key: { readonly runId: string; readonly iteration: number }): Attributes {
  return { 'plumb.run.id': key.runId, 'plumb.iteration': key.iteration };
}

/** The trace id of a traceparent, 32 hexadecimal digits; empty when there is none. */
export function traceIdOf(traceparent: string | null | undefined): string {
  return traceparent?.split('-')[1] ?? '';
}

/** The trace id of the running code. */
export function currentTraceId(): string {
  return traceIdOf(currentCarrier()['traceparent']);
}
