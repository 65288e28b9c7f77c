import { context, createContextKey } from '@opentelemetry/api';
import type { Span } from '@opentelemetry/api';

/** A try of something that is tried again. */
export interface Retry {
  /** 1 at the first time. */
  readonly attempt: number;
  /** Whether another try follows this error. */
  readonly again: (error: Error) => boolean;
}

const key = createContextKey('plumb retry');

/** Runs a try: spans within can say which one it was, and whether another followed. */
export function withRetry<Result>(retry: Retry, body: () => Result): Result {
  return context.with(context.active().setValue(key, retry), body);
}

/** Says in a span which try it belongs to and, where it failed, whether it was tried again. Nothing outside of tries. */
export function recordRetry(span: Span, error?: Error): void {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- only withRetry sets the key
  const retry = context.active().getValue(key) as Retry | undefined;
  if (retry === undefined) return;
  span.setAttribute('plumb.retry.attempt', retry.attempt);
  if (error !== undefined) span.setAttribute('plumb.error.retried', retry.again(error));
}
