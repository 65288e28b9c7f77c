import { inspect } from 'node:util';
import { PlumbError } from '@plumb/kit/errors';
import type { ErrorCode, ErrorReason, FieldViolation } from '@plumb/kit/errors';

/** A PlumbError as plain data, which structured cloning keeps whole. */
export interface WireError {
  readonly code: ErrorCode;
  readonly reason: ErrorReason;
  readonly message: string;
  readonly fieldViolations?: readonly FieldViolation[];
  readonly metadata: Readonly<Record<string, string>>;
  /** The private detail, as text. */
  readonly cause?: string;
}

/** An error for the way to another thread or process. */
export function toWireError(error: PlumbError): WireError {
  const { code, reason, message, fieldViolations, metadata, cause } = error;
  return {
    code,
    reason,
    message,
    metadata: { ...metadata },
    ...(fieldViolations === undefined ? {} : { fieldViolations }),
    ...(cause === undefined
      ? {}
      : { cause: cause instanceof Error ? (cause.stack ?? cause.message) : inspect(cause) }),
  };
}

/** The error that was sent. */
export function fromWireError(wire: WireError): PlumbError {
  return new PlumbError(wire);
}
