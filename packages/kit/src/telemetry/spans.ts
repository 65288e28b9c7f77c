import { context, ROOT_CONTEXT, SpanStatusCode, trace } from '@opentelemetry/api';
import type { Attributes, Context, Link, Span, SpanKind, Tracer } from '@opentelemetry/api';
import { ATTR_ERROR_TYPE } from '@opentelemetry/semantic-conventions';
import { describeError, PlumbError } from '../errors/plumb-error.ts';

/** What a span may begin with. */
export interface SpanStart {
  readonly kind?: SpanKind;
  readonly attributes?: Attributes;
  readonly links?: readonly (Link | undefined)[];
  /** The parent's context; the running code's by default. */
  readonly parent?: Context;
  /** Begins a new trace. */
  readonly root?: boolean;
  /** Back-dates the start. */
  readonly startTime?: Date;
}

/** Starts a span that the caller ends. */
export function startSpan(
  tracer: Tracer,
  name: string,
  start: SpanStart = {},
): { span: Span; context: Context } {
  const parent = start.root === true ? ROOT_CONTEXT : (start.parent ?? context.active());
  const span = tracer.startSpan(
    name,
    {
      ...(start.kind === undefined ? {} : { kind: start.kind }),
      ...(start.attributes === undefined ? {} : { attributes: start.attributes }),
      ...(start.startTime === undefined ? {} : { startTime: start.startTime }),
      ...(start.links === undefined ? {} : { links: start.links.filter((link) => link !== undefined) }),
    },
    parent,
  );
  return { span, context: trace.setSpan(parent, span) };
}

/** Runs `body` in a span, records what it throws, and ends the span. */
export async function withSpan<Result>(
  tracer: Tracer,
  name: string,
  start: SpanStart,
  body: (span: Span) => Promise<Result> | Result,
): Promise<Result> {
  const { span, context: inside } = startSpan(tracer, name, start);
  try {
    return await context.with(inside, () => body(span));
  } catch (error) {
    recordError(span, error);
    throw error;
  } finally {
    span.end();
  }
}

/** Marks a span as failed: status, error.type (the code) and the platform's reason and whether a retry may help. */
export function recordError(span: Span, thrown: unknown): void {
  const error = PlumbError.from(thrown);
  span.setAttributes({
    [ATTR_ERROR_TYPE]: error.code,
    'plumb.error.reason': error.reason,
    'plumb.error.retryable': error.retryable,
  });
  span.setStatus({ code: SpanStatusCode.ERROR, message: describeError(thrown) });
}
