import assert from 'node:assert/strict';
import { test } from 'node:test';
import { invalidArgument } from '@plumb/kit/errors';
import { isStorageFailure, ledgerError } from './database-error.ts';

const databaseError = (code: string, message = 'it broke') => Object.assign(new Error(message), { code });

const branches: [name: string, thrown: unknown, code: string, reason: string, retryable: boolean][] = [
  ['a full disk', databaseError('53100'), 'RESOURCE_EXHAUSTED', 'DISK_FULL', true],
  ['an input or output error', databaseError('58030'), 'RESOURCE_EXHAUSTED', 'DISK_FULL', true],
  ['a full disk under PGlite', databaseError('ENOSPC'), 'RESOURCE_EXHAUSTED', 'DISK_FULL', true],
  ['too many connections', databaseError('53300'), 'UNAVAILABLE', 'CONNECTION_FAILED', true],
  ['a shutdown', databaseError('57P01'), 'UNAVAILABLE', 'CONNECTION_FAILED', true],
  ['a lost connection', databaseError('08006'), 'UNAVAILABLE', 'CONNECTION_FAILED', true],
  ['a refused connection', databaseError('ECONNREFUSED'), 'UNAVAILABLE', 'CONNECTION_FAILED', true],
  [
    'a connection that node-postgres lost',
    new Error('Connection terminated unexpectedly'),
    'UNAVAILABLE',
    'CONNECTION_FAILED',
    true,
  ],
  ['a deadlock', databaseError('40P01'), 'ABORTED', 'REVISION_CONFLICT', true],
  ['a lock', databaseError('55P03'), 'UNAVAILABLE', 'CONNECTION_FAILED', true],
  ['a standby', databaseError('25006'), 'FAILED_PRECONDITION', 'LEDGER_FAILED', false],
  ['a broken constraint', databaseError('23514'), 'INTERNAL', 'LEDGER_FAILED', false],
  ['anything else', 'thrown text', 'INTERNAL', 'LEDGER_FAILED', false],
];

for (const [name, thrown, code, reason, retryable] of branches) {
  test(`${name} is ${code}`, () => {
    const error = ledgerError(thrown);
    assert.equal(error.code, code);
    assert.equal(error.reason, reason);
    assert.equal(error.retryable, retryable);
    assert.equal(isStorageFailure(error), reason === 'DISK_FULL');
    assert.doesNotMatch(error.message, /it broke/);
  });
}

test('an error of ours stays as it is', () => {
  const error = invalidArgument('field', 'is wrong');
  assert.equal(ledgerError(error), error);
});
