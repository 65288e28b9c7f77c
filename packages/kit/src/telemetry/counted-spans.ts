import type { Context } from '@opentelemetry/api';
import { ExportResultCode } from '@opentelemetry/core';
import { BatchSpanProcessor } from '@opentelemetry/sdk-trace-node';
import type { ReadableSpan, Span, SpanExporter, SpanProcessor } from '@opentelemetry/sdk-trace-node';
import { describeError } from '../errors/plumb-error.ts';
import { counter } from './instruments.ts';
import { logger } from './logger.ts';

const lostSpans = counter('plumb.telemetry', 'plumb.telemetry.lost_spans', {
  description: 'Spans that could not be written, by destination and reason',
  unit: '{span}',
});
const writtenSpans = counter('plumb.telemetry', 'plumb.telemetry.written_spans', {
  description: 'Spans written to the span file, or taken by the collector',
  unit: '{span}',
});

/** How spans are collected for a destination. */
export interface SpanQueueOptions {
  readonly destination: 'file' | 'collector';
  /** Most spans that wait; more are lost, and counted. */
  readonly maxQueueSize: number;
  /** Longest wait of a span, in milliseconds. */
  readonly delayMs: number;
  readonly maxBatchSize: number;
  /** An export that takes longer counts as failed, in milliseconds. */
  readonly timeoutMs: number;
  /** Told of spans that were written, or given up. */
  readonly settled?: (spans: readonly ReadableSpan[]) => void;
}

/**
 * Collects spans and hands them to an exporter in batches. A destination that is slow or away costs the spans that do not
 * fit into the queue, which are counted and said once, and nothing else.
 */
export class CountedSpans implements SpanProcessor {
  readonly #batches: BatchSpanProcessor;
  readonly #options: SpanQueueOptions;
  /** Spans that were neither written nor given up. */
  #waiting = 0;
  #failing = false;

  constructor(exporter: SpanExporter, options: SpanQueueOptions) {
    this.#options = options;
    this.#batches = new BatchSpanProcessor(
      {
        export: (spans, done) => {
          this.#waiting -= spans.length;
          exporter.export(spans, (result) => {
            if (result.code === ExportResultCode.SUCCESS) this.#written(spans.length);
            else this.#lost(spans.length, 'export failed', result.error);
            // What was lost is counted; there is nobody to whom the failure would be news.
            options.settled?.(spans);
            done({ code: ExportResultCode.SUCCESS });
          });
        },
        shutdown: async () => {
          await exporter.shutdown();
        },
      },
      {
        scheduledDelayMillis: options.delayMs,
        maxQueueSize: options.maxQueueSize,
        maxExportBatchSize: options.maxBatchSize,
        exportTimeoutMillis: options.timeoutMs,
      },
    );
  }

  onStart(span: Span, parent: Context): void {
    this.#batches.onStart(span, parent);
  }

  onEnd(span: ReadableSpan): void {
    if (this.#waiting >= this.#options.maxQueueSize) {
      this.#lost(1, 'queue full', undefined);
      this.#options.settled?.([span]);
      return;
    }
    this.#waiting += 1;
    this.#batches.onEnd(span);
  }

  async forceFlush(): Promise<void> {
    await this.#batches.forceFlush();
  }

  async shutdown(): Promise<void> {
    await this.#batches.shutdown();
  }

  #written(spans: number): void {
    const { destination } = this.#options;
    writtenSpans.add(spans, { 'plumb.telemetry.destination': destination });
    if (!this.#failing) return;
    this.#failing = false;
    logger('telemetry').info({ destination }, 'spans are written again');
  }

  #lost(spans: number, reason: 'queue full' | 'export failed', error: Error | undefined): void {
    const { destination } = this.#options;
    lostSpans.add(spans, { 'plumb.telemetry.destination': destination, 'error.type': reason });
    if (this.#failing) return;
    this.#failing = true;
    logger('telemetry').warn(
      { destination, reason, ...(error === undefined ? {} : { error: describeError(error) }) },
      'spans are lost; plumb.telemetry.lost_spans counts them',
    );
  }
}
