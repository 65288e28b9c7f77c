import { errorCodes, isErrorReason } from '@plumb/kit/errors';
import type { ErrorCode, ErrorReason } from '@plumb/kit/errors';

/** A code out of a ledger column; UNKNOWN for one that this version does not know. */
export function errorCodeNamed(name: string | null): ErrorCode {
  return name !== null && isErrorCode(name) ? name : 'UNKNOWN';
}

/** A reason out of a ledger column; REMOTE_ERROR for one that this version does not know. */
export function reasonNamed(name: string | null): ErrorReason {
  return name !== null && isErrorReason(name) ? name : 'REMOTE_ERROR';
}

function isErrorCode(name: string): name is ErrorCode {
  return Object.hasOwn(errorCodes, name);
}
