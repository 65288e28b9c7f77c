/**
 * The gRPC status codes by name, with their numbers on the wire.
 * Source: https://grpc.io/docs/guides/status-codes/ (OK is left out: it is no error).
 */
export const errorCodes = {
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const;

export type ErrorCode = keyof typeof errorCodes;

/** True for the name of a status code. */
export function isErrorCode(name: string): name is ErrorCode {
  return Object.hasOwn(errorCodes, name);
}

const namesByNumber = new Map<number, ErrorCode>(
  Object.keys(errorCodes)
    .filter(isErrorCode)
    .map((name) => [errorCodes[name], name]),
);

/** The name of a code on the wire; UNKNOWN for a number that is no status code. */
export function errorCodeOf(number: number): ErrorCode {
  return namesByNumber.get(number) ?? 'UNKNOWN';
}

/**
 * Codes after which the same request may succeed later without anybody changing anything. Everything else is terminal:
 * sending it again gives the same answer. (gRPC's own advice adds ABORTED for a retry of the whole read-modify-write.)
 */
const retryableCodes: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'UNAVAILABLE',
  'RESOURCE_EXHAUSTED',
  'DEADLINE_EXCEEDED',
  'ABORTED',
]);

/** True if a request that failed with this code may succeed when it is sent again. */
export function isRetryable(code: ErrorCode): boolean {
  return retryableCodes.has(code);
}
