import type { SpanRecord } from '@plumb/kit/telemetry';
import { notFound } from '@plumb/kit/errors';
import { readSpans } from '@plumb/trace/span-files';

/** What a person asked for, found in the span files. */
export type Subject =
  | { readonly kind: 'sample'; readonly id: string; readonly traceIds: ReadonlySet<string> }
  | { readonly kind: 'iteration'; readonly id: string; readonly traceIds: ReadonlySet<string> }
  | { readonly kind: 'trace'; readonly id: string; readonly traceIds: ReadonlySet<string> }
  | {
      readonly kind: 'run';
      readonly id: string;
      /** Root spans of the run's iterations, in their order. */
      readonly iterations: readonly SpanRecord[];
      /** Root spans of the run's samples. */
      readonly samples: readonly SpanRecord[];
    };

/**
 * Finds what an id stands for: a sample (its id or the first 6 or more characters), a run, an iteration as `<run>/<number>`,
 * or a trace. Without an id: the sample whose scores were written down last.
 *
 * @throws PlumbError NOT_FOUND, saying what can be asked for
 */
export async function findSubject(folder: string, id: string | undefined): Promise<Subject> {
  if (id === undefined) return await lastSample(folder);
  const [runId = '', iteration] = id.split('/');
  const samples: SpanRecord[] = [];
  const iterations: SpanRecord[] = [];
  const traces = new Set<string>();
  const bySample = new Map<string, Set<string>>();
  for await (const span of readSpans(folder, new Set([runId]))) {
    if (span.traceId === id) traces.add(id);
    const sampleId = String(span.attributes['plumb.sample.id'] ?? '');
    if (sampleId === id || (id.length >= 6 && sampleId.startsWith(id))) {
      bySample.set(sampleId, (bySample.get(sampleId) ?? new Set()).add(span.traceId));
    }
    if (span.attributes['plumb.run.id'] !== runId) continue;
    if (span.name === 'sample') samples.push(span);
    if (span.name === 'iteration') iterations.push(span);
  }
  if (bySample.size > 1) {
    throw notFound('sample', id, {
      fix: `${bySample.size} samples begin like this: give more of the id`,
    });
  }
  for (const [sampleId, traceIds] of bySample) return { kind: 'sample', id: sampleId, traceIds };
  if (traces.size > 0) return { kind: 'trace', id, traceIds: traces };
  iterations.sort(
    (a, b) => Number(a.attributes['plumb.iteration']) - Number(b.attributes['plumb.iteration']),
  );
  if (iteration !== undefined) {
    const found = iterations.filter((span) => String(span.attributes['plumb.iteration']) === iteration);
    if (found.length > 0) {
      return { kind: 'iteration', id, traceIds: new Set(found.map(({ traceId }) => traceId)) };
    }
  } else if (iterations.length > 0 || samples.length > 0) {
    return { kind: 'run', id, iterations, samples };
  }
  throw notFound('sample, run, iteration or trace', id, {
    fix: 'run `plumb trace` without an id for the last sample, or name the state folder with --state; old spans are deleted',
  });
}

async function lastSample(folder: string): Promise<Subject> {
  let last: SpanRecord | undefined;
  for await (const span of readSpans(folder, new Set(['plumb.sample.id']))) {
    const scored = span.attributes['messaging.destination.name'] === 'plumb.events.sample.scored';
    if (scored && (last === undefined || span.endMs > last.endMs)) last = span;
  }
  if (last === undefined) {
    throw notFound('sample', 'scored', {
      fix: 'there are no spans of a scored sample yet: run `plumb demo`, or name its state folder with --state',
    });
  }
  return {
    kind: 'sample',
    id: String(last.attributes['plumb.sample.id']),
    traceIds: new Set([last.traceId]),
  };
}
