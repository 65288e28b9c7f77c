import type { FieldViolation } from './error-fields.ts';
import { PlumbError, unexpectedErrorMessage } from './plumb-error.ts';
import type { ErrorReason } from './reasons.ts';

/** What every shorthand takes besides its message. */
export interface ErrorOptions {
  readonly reason?: ErrorReason;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly retryAfterMs?: number;
  readonly cause?: unknown;
}

/** INVALID_ARGUMENT about one field. The description names the value and the fix. */
export function invalidArgument(field: string, description: string, options: ErrorOptions = {}): PlumbError {
  return invalidArguments([{ field, description }], options);
}

/** INVALID_ARGUMENT about several fields at once. */
export function invalidArguments(
  fieldViolations: readonly FieldViolation[],
  options: ErrorOptions = {},
): PlumbError {
  const message = fieldViolations.map(({ field, description }) => `${field}: ${description}`).join('; ');
  return new PlumbError({
    reason: 'INVALID_FIELD',
    ...options,
    code: 'INVALID_ARGUMENT',
    message,
    fieldViolations,
  });
}

/** NOT_FOUND: `notFound('model', 'toybox-2')` says "model 'toybox-2' does not exist". */
export function notFound(
  kind: string,
  id: string,
  options: ErrorOptions & { fix?: string } = {},
): PlumbError {
  const { fix, ...rest } = options;
  const message = `${kind} '${id}' does not exist${fix === undefined ? '' : `; ${fix}`}`;
  return new PlumbError({ reason: 'RESOURCE_NOT_FOUND', ...rest, code: 'NOT_FOUND', message });
}

/** ALREADY_EXISTS: `alreadyExists('run', 'r1')` says "run 'r1' exists already". */
export function alreadyExists(kind: string, id: string, options: ErrorOptions = {}): PlumbError {
  return new PlumbError({
    reason: 'RESOURCE_EXISTS',
    ...options,
    code: 'ALREADY_EXISTS',
    message: `${kind} '${id}' exists already`,
  });
}

/** FAILED_PRECONDITION: the request is fine, the state of the system is not, and waiting does not change it. */
export function failedPrecondition(message: string, options: ErrorOptions = {}): PlumbError {
  return new PlumbError({ reason: 'PRECONDITION_FAILED', ...options, code: 'FAILED_PRECONDITION', message });
}

/** UNAVAILABLE: something needed is not there right now. Retryable. */
export function unavailable(message: string, options: ErrorOptions = {}): PlumbError {
  return new PlumbError({ reason: 'CONNECTION_FAILED', ...options, code: 'UNAVAILABLE', message });
}

/** RESOURCE_EXHAUSTED: too much at once. Retryable after `retryAfterMs`. */
export function resourceExhausted(message: string, options: ErrorOptions = {}): PlumbError {
  return new PlumbError({ reason: 'OVERLOADED', ...options, code: 'RESOURCE_EXHAUSTED', message });
}

/** DEADLINE_EXCEEDED: it took longer than the caller allowed. Retryable. */
export function deadlineExceeded(message: string, options: ErrorOptions = {}): PlumbError {
  return new PlumbError({ reason: 'DEADLINE_EXCEEDED', ...options, code: 'DEADLINE_EXCEEDED', message });
}

/** ABORTED: somebody else was faster; read the newest state and decide anew. */
export function aborted(message: string, options: ErrorOptions = {}): PlumbError {
  return new PlumbError({ reason: 'REVISION_CONFLICT', ...options, code: 'ABORTED', message });
}

/** CANCELLED: the caller gave up. */
export function cancelled(message = 'the operation was cancelled', options: ErrorOptions = {}): PlumbError {
  return new PlumbError({ reason: 'CANCELLED', ...options, code: 'CANCELLED', message });
}

/** DATA_LOSS: stored bytes are missing or not what was written. Terminal. */
export function dataLoss(message: string, options: ErrorOptions = {}): PlumbError {
  return new PlumbError({ reason: 'ARTIFACT_CORRUPT', ...options, code: 'DATA_LOSS', message });
}

/** INTERNAL with the fixed public message; the cause goes to the log. */
export function internal(cause: unknown, options: ErrorOptions = {}): PlumbError {
  return new PlumbError({
    reason: 'UNEXPECTED',
    ...options,
    code: 'INTERNAL',
    message: unexpectedErrorMessage,
    cause,
  });
}
