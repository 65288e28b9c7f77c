/**
 * `@plumb/kit/errors`: the one error type, its codes and reasons, and its form on the wire.
 */
export { errorCodeOf, errorCodes, isErrorCode, isRetryable } from './errors/codes.ts';
export type { ErrorCode } from './errors/codes.ts';
export type { ErrorFields, FieldViolation } from './errors/error-fields.ts';
export { listenError } from './errors/listen-error.ts';
export { classifyInfrastructureError, fieldPath } from './errors/infrastructure.ts';
export { describeError, PlumbError, unexpectedErrorMessage } from './errors/plumb-error.ts';
export { errorReasons, isErrorReason } from './errors/reasons.ts';
export type { ErrorReason } from './errors/reasons.ts';
export {
  aborted,
  alreadyExists,
  cancelled,
  dataLoss,
  deadlineExceeded,
  failedPrecondition,
  internal,
  invalidArgument,
  invalidArguments,
  notFound,
  resourceExhausted,
  unavailable,
} from './errors/shorthand.ts';
export type { ErrorOptions } from './errors/shorthand.ts';
export { errorDetails, errorDomain, fromStatus, toStatus } from './errors/status.ts';
