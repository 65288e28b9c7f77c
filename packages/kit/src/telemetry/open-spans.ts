import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { hostname } from 'node:os';
import path from 'node:path';
import { isSpanContextValid, SpanStatusCode, trace, TraceFlags } from '@opentelemetry/api';
import type { Context, HrTime, TextMapPropagator } from '@opentelemetry/api';
import type { Resource } from '@opentelemetry/resources';
import type { ReadableSpan, Span, SpanProcessor } from '@opentelemetry/sdk-trace-node';
import { describeError } from '../errors/plumb-error.ts';
import { logger } from './logger.ts';
import { spanKindOf, toSpanRecord } from './span-record.ts';
import type { SpanRecord } from './span-record.ts';

/** Where spans are written. */
export type SpanDestination = 'file' | 'collector';

interface Entry {
  readonly line: string;
  /** Destinations that do not have it yet. */
  readonly missing: Set<SpanDestination>;
}

interface LostSpan {
  readonly span: ReadableSpan;
  readonly missing: ReadonlySet<SpanDestination>;
}

// Rewritten when it has grown to this, with what is still open: some hundreds of spans at most. Bytes.
const rewriteBytes = 4 * 2 ** 20;

/**
 * Remembers on disk the spans that others may name as their parents, or link to, until they are written: a span whose
 * context leaves this process, everything above it, and the processing of messages. A process that is killed leaves the
 * list behind, and the next process of the service on this host writes those spans for it, as failed and as far as they
 * were known. So no span of another service loses its parent.
 */
export class OpenSpans implements SpanProcessor {
  readonly #file: string;
  readonly #destinations: readonly SpanDestination[];
  /** Spans that have not ended, by id. */
  readonly #open = new Map<string, Span>();
  /** Spans on the list, by id. */
  readonly #listed = new Map<string, Entry>();
  #descriptor: number | undefined;
  #bytes = 0;
  #broken = false;

  /** @throws what the file system throws when the directory cannot be made or read */
  constructor(directory: string, service: string, destinations: readonly SpanDestination[]) {
    mkdirSync(directory, { recursive: true });
    this.#destinations = destinations;
    this.#file = path.join(directory, `${service}-${hostname()}-${process.pid}.open`);
  }

  /** Takes over the lists of processes that are gone: gives their spans, for each with the destinations that lack it. */
  takeOver(resource: Resource): LostSpan[] {
    const directory = path.dirname(this.#file);
    const [, prefix = ''] = /^(.*-)\d+\.open$/.exec(path.basename(this.#file)) ?? [];
    const lost: LostSpan[] = [];
    for (const name of readdirSync(directory)) {
      const pid = Number(/^(\d+)\.open$/.exec(name.startsWith(prefix) ? name.slice(prefix.length) : '')?.[1]);
      // A list of our own id is of a predecessor: in a container every first process has the same one.
      if (!Number.isInteger(pid) || (pid !== process.pid && isAlive(pid))) continue;
      const file = path.join(directory, name);
      const endMs = statSync(file).mtimeMs;
      const found = readList(readFileSync(file, 'utf8'), this.#destinations);
      unlinkSync(file);
      for (const { record, missing } of found) {
        const line = JSON.stringify({ open: record });
        this.#listed.set(record.spanId, { line, missing: new Set(missing) });
        this.#append(line);
        lost.push({ span: toLostSpan(record, endMs, resource), missing });
      }
    }
    return lost;
  }

  /** Notes that the current span of a context, and all above it, may be named by others. */
  readonly propagator: TextMapPropagator = {
    inject: (context: Context) => {
      this.note(trace.getSpanContext(context)?.spanId);
    },
    extract: (context: Context) => context,
    fields: () => [],
  };

  /** Puts a span that has not ended, and all above it, on the list. */
  note(spanId: string | undefined): void {
    const lines: string[] = [];
    let id = spanId;
    while (id !== undefined && !this.#listed.has(id)) {
      const span = this.#open.get(id);
      if (span === undefined || !isSampled(span)) break;
      const line = JSON.stringify({ open: toSpanRecord(span) });
      this.#listed.set(id, { line, missing: new Set(this.#destinations) });
      lines.push(line);
      id = span.parentSpanContext?.spanId;
    }
    // One write for all of them: of what this costs, most is the call.
    if (lines.length > 0) this.#append(lines.join('\n'));
  }

  onStart(span: Span): void {
    const { spanId } = span.spanContext();
    this.#open.set(spanId, span);
    // Of a message that comes again one wants to see what became of it before.
    if (span.attributes['messaging.operation.type'] === 'process') this.note(spanId);
  }

  onEnd(span: ReadableSpan): void {
    this.#open.delete(span.spanContext().spanId);
  }

  /** A destination has these spans, or has given them up. */
  settled(destination: SpanDestination, spans: readonly ReadableSpan[]): void {
    const ids = spans.map((span) => span.spanContext().spanId).filter((id) => this.#listed.has(id));
    if (ids.length === 0) return;
    for (const id of ids) {
      const missing = this.#listed.get(id)?.missing;
      missing?.delete(destination);
      if (missing?.size === 0) this.#listed.delete(id);
    }
    this.#append(JSON.stringify({ written: ids, to: destination }));
    if (this.#bytes > rewriteBytes) this.#rewrite();
  }

  async forceFlush(): Promise<void> {
    // What is listed is on disk already.
  }

  async shutdown(): Promise<void> {
    // The others may still have spans to write; `close` comes last.
  }

  /** Everything is written: the list goes. */
  close(): void {
    if (this.#descriptor === undefined) return;
    closeSync(this.#descriptor);
    this.#descriptor = undefined;
    this.#broken = true;
    if (this.#listed.size === 0) unlinkSync(this.#file);
  }

  // Synchronous: it must be on disk before the context is anywhere else. A few microseconds, into the page cache.
  #append(line: string): void {
    if (this.#broken) return;
    try {
      this.#descriptor ??= openSync(this.#file, 'a');
      this.#bytes += writeSync(this.#descriptor, `${line}\n`);
    } catch (error) {
      this.#giveUp(error);
    }
  }

  #rewrite(): void {
    const next = `${this.#file}.next`;
    try {
      const descriptor = openSync(next, 'w');
      this.#bytes = 0;
      for (const { line, missing } of this.#listed.values()) {
        const written = this.#destinations.filter((destination) => !missing.has(destination));
        const spanId: unknown = JSON.parse(line).open.spanId;
        const lines = [line, ...written.map((to) => JSON.stringify({ written: [spanId], to }))];
        this.#bytes += writeSync(descriptor, `${lines.join('\n')}\n`);
      }
      renameSync(next, this.#file);
      if (this.#descriptor !== undefined) closeSync(this.#descriptor);
      this.#descriptor = descriptor;
    } catch (error) {
      this.#giveUp(error);
    }
  }

  #giveUp(error: unknown): void {
    this.#broken = true;
    logger('telemetry').warn(
      { file: this.#file, error: describeError(error) },
      'open spans cannot be listed; if this process is killed, spans of others may lack their parents',
    );
  }
}

interface ListedSpan {
  readonly record: SpanRecord;
  readonly missing: ReadonlySet<SpanDestination>;
}

/** The spans of a list that some destination lacks. A last line that was cut off is passed over. */
function readList(text: string, destinations: readonly SpanDestination[]): ListedSpan[] {
  const found = new Map<string, { record: SpanRecord; missing: Set<SpanDestination> }>();
  for (const line of text.split('\n')) {
    if (!line.endsWith('}')) continue;
    const entry = JSON.parse(line) as
      { readonly open: SpanRecord } | { readonly written: readonly string[]; readonly to: SpanDestination };
    if ('open' in entry) {
      found.set(entry.open.spanId, { record: entry.open, missing: new Set(destinations) });
    } else for (const id of entry.written) found.get(id)?.missing.delete(entry.to);
  }
  return [...found.values()].filter(({ missing }) => missing.size > 0);
}

/** The span of a process that died, as far as it was known: it ends when the process was last heard of. */
function toLostSpan(record: SpanRecord, lastHeardMs: number, resource: Resource): ReadableSpan {
  const { traceId, spanId, parentSpanId, name, kind, startMs, attributes, links } = record;
  const context = (id: string, of = traceId) => ({ traceId: of, spanId: id, traceFlags: TraceFlags.SAMPLED });
  const endMs = Math.max(startMs, lastHeardMs);
  return {
    name,
    kind: spanKindOf(kind),
    spanContext: () => context(spanId),
    ...(parentSpanId === undefined ? {} : { parentSpanContext: context(parentSpanId) }),
    startTime: hrTime(startMs),
    endTime: hrTime(endMs),
    duration: hrTime(endMs - startMs),
    ended: true,
    status: {
      code: SpanStatusCode.ERROR,
      message: 'the process died before this span was written; how it ended is not known',
    },
    attributes: { ...attributes, 'error.type': 'process_died' },
    links: links.map((link) => ({ context: context(link.spanId, link.traceId) })),
    events: [],
    resource,
    instrumentationScope: { name: 'plumb.telemetry' },
    droppedAttributesCount: 0,
    droppedEventsCount: 0,
    droppedLinksCount: 0,
  };
}

function hrTime(ms: number): HrTime {
  return [Math.floor(ms / 1000), Math.round((ms % 1000) * 1e6)];
}

function isSampled(span: Span): boolean {
  const context = span.spanContext();
  return isSpanContextValid(context) && (context.traceFlags & TraceFlags.SAMPLED) !== 0;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it is there, and somebody else's.
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}
