import { inspect } from 'node:util';
import { isRetryable } from './codes.ts';
import type { ErrorCode } from './codes.ts';
import type { ErrorFields, FieldViolation } from './error-fields.ts';
import { classifyInfrastructureError } from './infrastructure.ts';
import type { ErrorReason } from './reasons.ts';

/** What callers are told of an error nobody foresaw; the detail goes to the log. */
export const unexpectedErrorMessage =
  'internal error; the log of the service has the detail under this trace id';

/**
 * The one error type of the platform. `message` is public; `cause` is not. `retryable` tells whether the same request
 * may succeed later; everything that is not retryable is terminal.
 */
export class PlumbError extends Error {
  override readonly name = 'PlumbError';
  readonly code: ErrorCode;
  readonly reason: ErrorReason;
  // `declare`: absent when not given, and no property with the value undefined.
  declare readonly fieldViolations?: readonly FieldViolation[];
  /** Milliseconds to wait before trying again. */
  declare readonly retryAfterMs?: number;
  readonly metadata: Readonly<Record<string, string>>;

  constructor(fields: ErrorFields) {
    super(fields.message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.code = fields.code;
    this.reason = fields.reason;
    if (fields.fieldViolations !== undefined) this.fieldViolations = fields.fieldViolations;
    if (fields.retryAfterMs !== undefined) this.retryAfterMs = fields.retryAfterMs;
    this.metadata = fields.metadata ?? {};
  }

  /** True if the same request may succeed when sent again (UNAVAILABLE, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, ABORTED). */
  get retryable(): boolean {
    return isRetryable(this.code);
  }

  /**
   * Any thrown thing as a PlumbError: itself, an infrastructure error with its code, or INTERNAL with a fixed message
   * and the thrown thing as its cause. Never throws.
   */
  static from(thrown: unknown): PlumbError {
    if (thrown instanceof PlumbError) return thrown;
    return new PlumbError(
      classifyInfrastructureError(thrown) ?? {
        code: 'INTERNAL',
        reason: 'UNEXPECTED',
        message: unexpectedErrorMessage,
        cause: thrown,
      },
    );
  }
}

/** The message with the messages of all its causes, on one line: for logs and terminals, never for the wire. */
export function describeError(thrown: unknown): string {
  const parts: string[] = [];
  let current: unknown = thrown;
  while (current !== undefined && current !== null && parts.length < 5) {
    const text = current instanceof Error ? current.message || current.name : inspectShort(current);
    if (text !== '' && !parts.some((part) => part.includes(text))) parts.push(text);
    current = current instanceof Error ? current.cause : undefined;
  }
  return parts.join(': ').replaceAll(/\s*\n\s*/g, ' ');
}

function inspectShort(value: unknown): string {
  return typeof value === 'string' ? value : inspect(value, { depth: 1, breakLength: Infinity });
}
