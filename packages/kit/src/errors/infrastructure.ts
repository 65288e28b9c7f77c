import { z } from 'zod';
import { errorCodeOf } from './codes.ts';
import type { ErrorCode } from './codes.ts';
import type { ErrorFields } from './error-fields.ts';
import type { ErrorReason } from './reasons.ts';

type Row = readonly [code: ErrorCode, reason: ErrorReason, message: string];

/** Node's system errors by `code`. The messages are fixed: path, host and port stay in the cause, for the log. */
const systemErrors: Readonly<Record<string, Row>> = {
  ENOSPC: ['RESOURCE_EXHAUSTED', 'DISK_FULL', 'the disk is full; free some space and try again'],
  EDQUOT: ['RESOURCE_EXHAUSTED', 'DISK_FULL', 'the disk quota is used up; free some space and try again'],
  EMFILE: ['RESOURCE_EXHAUSTED', 'TOO_MANY_OPEN_FILES', 'too many open files; raise the limit (ulimit -n)'],
  ENFILE: ['RESOURCE_EXHAUSTED', 'TOO_MANY_OPEN_FILES', 'the system has too many open files'],
  EACCES: ['PERMISSION_DENIED', 'FILE_ACCESS_DENIED', 'access denied by the system; check owner and mode'],
  EPERM: ['PERMISSION_DENIED', 'FILE_ACCESS_DENIED', 'operation not permitted; check owner and mode'],
  EROFS: ['PERMISSION_DENIED', 'FILE_ACCESS_DENIED', 'the file system is read-only; choose another folder'],
  ENOENT: ['NOT_FOUND', 'FILE_NOT_FOUND', 'no such file or folder'],
  ENOTDIR: ['FAILED_PRECONDITION', 'FILE_NOT_FOUND', 'a part of the path is not a folder'],
  EEXIST: ['ALREADY_EXISTS', 'FILE_EXISTS', 'the file exists already'],
  EADDRINUSE: [
    'FAILED_PRECONDITION',
    'PORT_IN_USE',
    'the port is in use; stop the other process or choose another port',
  ],
  EADDRNOTAVAIL: ['FAILED_PRECONDITION', 'ADDRESS_NOT_AVAILABLE', 'this machine does not have that address'],
  ECONNREFUSED: ['UNAVAILABLE', 'CONNECTION_FAILED', 'connection refused; the other side is not running'],
  ECONNRESET: ['UNAVAILABLE', 'CONNECTION_FAILED', 'the other side closed the connection'],
  EPIPE: ['UNAVAILABLE', 'CONNECTION_FAILED', 'the other side closed the connection'],
  ETIMEDOUT: ['UNAVAILABLE', 'CONNECTION_FAILED', 'the connection timed out'],
  EHOSTUNREACH: ['UNAVAILABLE', 'CONNECTION_FAILED', 'the host cannot be reached'],
  ENETUNREACH: ['UNAVAILABLE', 'CONNECTION_FAILED', 'the network cannot be reached'],
  ENOTFOUND: ['UNAVAILABLE', 'CONNECTION_FAILED', 'the host name cannot be resolved'],
  EAI_AGAIN: ['UNAVAILABLE', 'CONNECTION_FAILED', 'the host name cannot be resolved at the moment'],
  UND_ERR_CONNECT_TIMEOUT: ['UNAVAILABLE', 'CONNECTION_FAILED', 'the connection timed out'],
  UND_ERR_SOCKET: ['UNAVAILABLE', 'CONNECTION_FAILED', 'the other side closed the connection'],
  UND_ERR_HEADERS_TIMEOUT: [
    'DEADLINE_EXCEEDED',
    'DEADLINE_EXCEEDED',
    'the other side did not answer in time',
  ],
  UND_ERR_BODY_TIMEOUT: [
    'DEADLINE_EXCEEDED',
    'DEADLINE_EXCEEDED',
    'the other side stopped in the middle of its answer',
  ],
};

/** Errors of the web platform and of the NATS clients by `name`. */
const namedErrors: Readonly<Record<string, Row>> = {
  AbortError: ['CANCELLED', 'CANCELLED', 'the operation was cancelled'],
  TimeoutError: ['DEADLINE_EXCEEDED', 'DEADLINE_EXCEEDED', 'the operation took longer than its deadline'],
  NoResponders: ['UNAVAILABLE', 'BROKER_UNAVAILABLE', 'the broker has nobody who answers on this subject'],
  ConnectionError: ['UNAVAILABLE', 'BROKER_UNAVAILABLE', 'the connection to the broker failed'],
  ClosedConnectionError: ['UNAVAILABLE', 'BROKER_UNAVAILABLE', 'the connection to the broker is closed'],
  DrainingConnectionError: ['UNAVAILABLE', 'SHUTTING_DOWN', 'the connection to the broker is closing'],
  AuthorizationError: ['UNAUTHENTICATED', 'CREDENTIALS_INVALID', 'the broker refused the credentials'],
  UserAuthenticationExpiredError: [
    'UNAUTHENTICATED',
    'CREDENTIALS_INVALID',
    'the broker credentials have expired',
  ],
  PermissionViolationError: ['PERMISSION_DENIED', 'ACCESS_DENIED', 'the broker does not permit this subject'],
  InvalidSubjectError: ['INVALID_ARGUMENT', 'INVALID_FIELD', 'the subject is not a valid NATS subject'],
  JetStreamNotEnabled: [
    'FAILED_PRECONDITION',
    'BROKER_REFUSED',
    'the broker runs without JetStream; start it with -js',
  ],
};

// nats-server's `err_code`s, see server/errors.json in nats-io/nats-server.
const jetStreamApiErrors: Readonly<Record<number, Row>> = {
  10014: ['NOT_FOUND', 'RESOURCE_NOT_FOUND', 'the consumer does not exist'],
  10023: ['RESOURCE_EXHAUSTED', 'DISK_FULL', 'the broker has too little storage left'],
  10028: ['RESOURCE_EXHAUSTED', 'DISK_FULL', 'the broker has too little memory left'],
  10037: ['NOT_FOUND', 'RESOURCE_NOT_FOUND', 'the message does not exist'],
  10039: ['FAILED_PRECONDITION', 'BROKER_REFUSED', 'JetStream is not enabled for this account'],
  10047: ['RESOURCE_EXHAUSTED', 'DISK_FULL', 'the broker has too little storage left'],
  10054: ['INVALID_ARGUMENT', 'MESSAGE_TOO_LARGE', 'the message is larger than its stream takes'],
  10059: ['NOT_FOUND', 'RESOURCE_NOT_FOUND', 'the stream does not exist'],
  10071: [
    'ABORTED',
    'REVISION_CONFLICT',
    'somebody else has written a newer revision; read it and try again',
  ],
  10076: ['UNAVAILABLE', 'BROKER_UNAVAILABLE', 'the broker has JetStream switched off at the moment'],
  10077: ['RESOURCE_EXHAUSTED', 'QUEUE_FULL', 'the queue is full; try again later'],
  10164: [
    'ABORTED',
    'REVISION_CONFLICT',
    'somebody else has written a newer revision; read it and try again',
  ],
};

/** How long a caller should wait after a full queue, in milliseconds: long enough for a worker to finish something. */
export const queueFullRetryMs = 1000;

// 10077 is 'message store failed', of which the limits of a stream are one cause: its text tells which.
const fullQueue = /maximum (messages|bytes)/i;
const fields = (row: Row, cause: unknown): ErrorFields => ({
  code: row[0],
  reason: row[1],
  message: row[2],
  cause,
});

/**
 * The one place where errors that are not ours get a code: Node's system errors, aborts and timeouts, fetch, zod,
 * the NATS clients and grpc-js. Undefined for anything it does not know, which is then an unexpected error.
 */
export function classifyInfrastructureError(error: unknown): ErrorFields | undefined {
  // zod's parse throws a class of its own that is an Error only in some of its builds.
  if (error instanceof z.core.$ZodError) return zodFields(error);
  if (!(error instanceof Error)) return undefined;
  const { code, name } = error as Error & { code?: unknown };

  if (name === 'JetStreamApiError' || name === 'StreamNotFoundError' || name === 'ConsumerNotFoundError') {
    return jetStreamFields(error, code);
  }
  if (name === 'JetStreamStatusError' || name === 'JetStreamError' || name === 'ProtocolError') {
    return {
      code: 'UNAVAILABLE',
      reason: 'BROKER_UNAVAILABLE',
      message: 'the broker ended the request',
      cause: error,
    };
  }
  if (typeof code === 'string') {
    const row = systemErrors[code];
    if (row !== undefined) return fields(row, error);
  }
  // grpc-js: a numeric code with `details` and `metadata` beside it. The message is the other side's and public already.
  if (typeof code === 'number' && 'details' in error && 'metadata' in error) {
    const details = typeof error.details === 'string' ? error.details : '';
    const mapped = errorCodeOf(code);
    return {
      code: mapped,
      reason: reasonOfCode(mapped),
      message: details === '' ? 'the other service failed' : details,
      cause: error,
    };
  }
  const row = namedErrors[name];
  if (row !== undefined) return fields(row, error);
  // fetch wraps the system error ('fetch failed'), NATS wraps timeouts and missing responders ('RequestError').
  if (error.cause !== undefined && (name === 'TypeError' || name === 'RequestError')) {
    return classifyInfrastructureError(error.cause);
  }
  return undefined;
}

function jetStreamFields(error: Error, code: unknown): ErrorFields {
  const row = typeof code === 'number' ? jetStreamApiErrors[code] : undefined;
  if (row !== undefined && (code !== 10077 || fullQueue.test(error.message))) {
    return { ...fields(row, error), retryAfterMs: row[1] === 'QUEUE_FULL' ? queueFullRetryMs : undefined };
  }
  // The HTTP-like status says whose fault it is: 5xx means that the broker is starting, electing or out of something.
  const status = 'status' in error && typeof error.status === 'number' ? error.status : 500;
  return status >= 500
    ? fields(['UNAVAILABLE', 'BROKER_UNAVAILABLE', 'the broker cannot do this at the moment'], error)
    : fields(['FAILED_PRECONDITION', 'BROKER_REFUSED', 'the broker refused the request'], error);
}

function zodFields(error: z.core.$ZodError): ErrorFields {
  const fieldViolations = error.issues.map(({ path, message }) => ({
    field: fieldPath(path),
    description: message,
  }));
  return {
    code: 'INVALID_ARGUMENT',
    reason: 'INVALID_FIELD',
    message: fieldViolations.map(({ field, description }) => `${field}: ${description}`).join('; '),
    fieldViolations,
    cause: error,
  };
}

/** `['prompts', 3, 'text']` as `prompts[3].text`. */
export function fieldPath(path: readonly PropertyKey[]): string {
  let text = '';
  for (const part of path) {
    if (typeof part === 'number') text += `[${part}]`;
    else text += text === '' ? String(part) : `.${String(part)}`;
  }
  return text === '' ? '(whole)' : text;
}

/** The reason for a code that came without one of our list. */
export function reasonOfCode(code: ErrorCode): ErrorReason {
  if (code === 'CANCELLED') return 'CANCELLED';
  if (code === 'DEADLINE_EXCEEDED') return 'DEADLINE_EXCEEDED';
  if (code === 'UNAVAILABLE') return 'CONNECTION_FAILED';
  if (code === 'UNIMPLEMENTED') return 'METHOD_UNIMPLEMENTED';
  return 'REMOTE_ERROR';
}
