import { isSpanContextValid, SpanStatusCode, trace, TraceFlags } from '@opentelemetry/api';
import type { Context } from '@opentelemetry/api';
import { SamplingDecision, TraceIdRatioBasedSampler } from '@opentelemetry/sdk-trace-node';
import type { ReadableSpan, Sampler, Span, SpanProcessor } from '@opentelemetry/sdk-trace-node';

/**
 * Decides at the head of a trace, by its id, whether its spans are written, and follows that decision in every process it
 * reaches. Spans of the others are recorded all the same, so that ids, headers and links stay, and `NotableSpans` can still
 * keep what went wrong.
 *
 * @param ratio Share of traces that are written, 0 to 1.
 */
export function headSampler(ratio: number): Sampler {
  const heads = new TraceIdRatioBasedSampler(ratio);
  return {
    shouldSample(parentContext: Context, traceId: string) {
      const parent = trace.getSpanContext(parentContext);
      const sampled =
        parent !== undefined && isSpanContextValid(parent)
          ? (parent.traceFlags & TraceFlags.SAMPLED) !== 0
          : heads.shouldSample(parentContext, traceId).decision === SamplingDecision.RECORD_AND_SAMPLED;
      return { decision: sampled ? SamplingDecision.RECORD_AND_SAMPLED : SamplingDecision.RECORD };
    },
    toString: () => `head sampler of ${ratio}`,
  };
}

interface HeldTrace {
  spans: ReadableSpan[];
  notable: boolean;
}

/** Ended spans of traces that are not sampled, held back until their trace turns out to be notable: about 20 MiB. */
const mostHeldSpans = 8192;

/**
 * Passes sampled spans on. Of the other traces it holds the last spans back, and passes on what this process has of a trace,
 * before and after, as soon as one of its spans failed or was slow.
 */
export class NotableSpans implements SpanProcessor {
  readonly #next: readonly SpanProcessor[];
  readonly #slowMs: number;
  /** In the order of their last span. */
  readonly #traces = new Map<string, HeldTrace>();
  #held = 0;

  /** @param slowMs A span that lasts this long, in milliseconds, is slow. */
  constructor(next: readonly SpanProcessor[], slowMs: number) {
    this.#next = next;
    this.#slowMs = slowMs;
  }

  onStart(span: Span, parent: Context): void {
    for (const next of this.#next) next.onStart(span, parent);
  }

  onEnd(span: ReadableSpan): void {
    const { traceId, traceFlags } = span.spanContext();
    if ((traceFlags & TraceFlags.SAMPLED) !== 0) {
      this.#pass(span);
      return;
    }
    const held = this.#traces.get(traceId) ?? { spans: [], notable: false };
    this.#traces.delete(traceId);
    this.#traces.set(traceId, held);
    if (!held.notable && !this.#isNotable(span)) {
      held.spans.push(span);
      this.#held += 1;
      this.#forgetOldest();
      return;
    }
    held.notable = true;
    this.#held -= held.spans.length;
    for (const earlier of held.spans.splice(0)) this.#pass(asSampled(earlier));
    this.#pass(asSampled(span));
  }

  async forceFlush(): Promise<void> {
    await Promise.all(this.#next.map(async (next) => await next.forceFlush()));
  }

  async shutdown(): Promise<void> {
    this.#traces.clear();
    await Promise.all(this.#next.map(async (next) => await next.shutdown()));
  }

  #isNotable(span: ReadableSpan): boolean {
    const [seconds, nanoseconds] = span.duration;
    return span.status.code === SpanStatusCode.ERROR || seconds * 1000 + nanoseconds / 1e6 >= this.#slowMs;
  }

  #pass(span: ReadableSpan): void {
    for (const next of this.#next) next.onEnd(span);
  }

  #forgetOldest(): void {
    for (const [traceId, { spans }] of this.#traces) {
      // Traces without spans are notable ones, which are remembered as long as there is room.
      if (this.#held <= mostHeldSpans && this.#traces.size <= mostHeldSpans) return;
      this.#held -= spans.length;
      this.#traces.delete(traceId);
    }
  }
}

/** The same span with the flag without which processors drop it. */
function asSampled(span: ReadableSpan): ReadableSpan {
  const context = span.spanContext();
  const sampled = { ...context, traceFlags: context.traceFlags | TraceFlags.SAMPLED };
  return Object.create(span, { spanContext: { value: () => sampled } }) as ReadableSpan;
}
