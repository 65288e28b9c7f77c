import { classifyInfrastructureError, PlumbError } from '@plumb/kit/errors';
import type { ErrorCode, ErrorReason } from '@plumb/kit/errors';

type Row = readonly [code: ErrorCode, reason: ErrorReason, message: string];

/*
 * SQLSTATEs, by whole code or by class (the first two characters).
 * Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
const rows: Readonly<Record<string, Row>> = {
  '53100': ['RESOURCE_EXHAUSTED', 'DISK_FULL', 'the disk of the ledger is full; free some space and resume'],
  '53': ['UNAVAILABLE', 'CONNECTION_FAILED', 'the database is out of connections or memory; try again later'],
  '58': ['RESOURCE_EXHAUSTED', 'DISK_FULL', 'the ledger cannot be written; see to its disk and resume'],
  '08': ['UNAVAILABLE', 'CONNECTION_FAILED', 'the connection to the database is lost'],
  '57': ['UNAVAILABLE', 'CONNECTION_FAILED', 'the database is shutting down or starting'],
  '40': ['ABORTED', 'REVISION_CONFLICT', 'somebody else changed the ledger at the same time; try again'],
  '55': ['UNAVAILABLE', 'CONNECTION_FAILED', 'the ledger is locked; try again'],
  '25006': ['FAILED_PRECONDITION', 'LEDGER_FAILED', 'the database takes no writes; connect to its primary'],
};

/**
 * A database's error as a PlumbError: full disks and lost connections get their code, anything else (a broken constraint,
 * bad SQL) is a defect of ours and becomes INTERNAL with the reason LEDGER_FAILED and its cause.
 */
export function ledgerError(thrown: unknown): PlumbError {
  if (thrown instanceof PlumbError) return thrown;
  const row = rowOf(thrown);
  if (row !== undefined) {
    return new PlumbError({ code: row[0], reason: row[1], message: row[2], cause: thrown });
  }
  const infrastructure = classifyInfrastructureError(thrown);
  if (infrastructure !== undefined) return new PlumbError(infrastructure);
  return new PlumbError({
    code: 'INTERNAL',
    reason: 'LEDGER_FAILED',
    message: 'the ledger refused a write or a read; the log of the loop service has the detail',
    cause: thrown,
  });
}

/** True for errors that mean: nothing can be written until somebody sees to the disk. */
export function isStorageFailure(error: PlumbError): boolean {
  return error.reason === 'DISK_FULL';
}

function rowOf(thrown: unknown): Row | undefined {
  if (!(thrown instanceof Error)) return undefined;
  const code = 'code' in thrown && typeof thrown.code === 'string' ? thrown.code : '';
  if (/^[0-9A-Z]{5}$/.test(code)) return rows[code] ?? rows[code.slice(0, 2)];
  // node-postgres says these without a code.
  if (/Connection terminated|timeout exceeded when trying to connect/i.test(thrown.message))
    return rows['08'];
  return undefined;
}
