import type { ErrorCode } from './codes.ts';
import type { ErrorReason } from './reasons.ts';

/** One bad field of a request: its path (`prompts[3].text`) and what is wrong with it, with the fix. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

/** Everything that makes up a PlumbError. */
export interface ErrorFields {
  readonly code: ErrorCode;
  readonly reason: ErrorReason;
  /** Public: it leaves the process. Names the field, the value and the fix; holds no secret, path or address of ours. */
  readonly message: string;
  readonly fieldViolations?: readonly FieldViolation[] | undefined;
  /** How long a caller should wait before it tries again, in milliseconds. */
  readonly retryAfterMs?: number | undefined;
  /** Public facts a program may use (ErrorInfo.metadata). */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** What lies beneath; goes to the log and never over the wire. */
  readonly cause?: unknown;
}
