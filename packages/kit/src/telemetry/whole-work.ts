import { trace } from '@opentelemetry/api';
import type { Context } from '@opentelemetry/api';
import type { ReadableSpan, Span, SpanProcessor } from '@opentelemetry/sdk-trace-node';

/** One piece of work of this process: a span that came from outside, or began a trace, with all below it. */
interface Work {
  readonly rootId: string;
  /** Ended spans that wait for the root; undefined once they are no longer held back. */
  ended: ReadableSpan[] | undefined;
}

/** A piece of work with more spans than this is passed on as it goes: it may last for hours, as a training job does. */
const mostHeldSpans = 512;

/**
 * Passes the spans of a piece of work on together, when it ends, parents first. A process that is killed so takes the whole
 * of its unfinished work along; the spans of it that others know of are on the list of `OpenSpans`.
 */
export class WholeWork implements SpanProcessor {
  readonly #next: SpanProcessor;
  readonly #early: (parentId: string | undefined) => void;
  /** By the ids of open spans. */
  readonly #open = new Map<string, Work>();

  /** @param early Told of a parent that has not ended and one of whose spans is passed on. */
  constructor(next: SpanProcessor, early: (parentId: string | undefined) => void = () => undefined) {
    this.#next = next;
    this.#early = early;
  }

  onStart(span: Span, parent: Context): void {
    this.#next.onStart(span, parent);
    const { spanId } = span.spanContext();
    const above = trace.getSpanContext(parent);
    const work = above === undefined ? undefined : this.#open.get(above.spanId);
    this.#open.set(spanId, work ?? { rootId: spanId, ended: [] });
  }

  onEnd(span: ReadableSpan): void {
    const { spanId } = span.spanContext();
    const work = this.#open.get(spanId);
    this.#open.delete(spanId);
    if (work?.ended === undefined) {
      this.#early(span.parentSpanContext?.spanId);
      this.#next.onEnd(span);
      return;
    }
    work.ended.push(span);
    if (spanId === work.rootId || work.ended.length > mostHeldSpans) this.#release(work);
  }

  async forceFlush(): Promise<void> {
    this.#releaseAll();
    await this.#next.forceFlush();
  }

  async shutdown(): Promise<void> {
    this.#releaseAll();
    await this.#next.shutdown();
  }

  #releaseAll(): void {
    for (const work of this.#open.values()) this.#release(work);
  }

  #release(work: Work): void {
    const { ended } = work;
    work.ended = undefined;
    for (const span of ended?.toReversed() ?? []) {
      if (span.spanContext().spanId !== work.rootId) this.#early(span.parentSpanContext?.spanId);
      this.#next.onEnd(span);
    }
  }
}
