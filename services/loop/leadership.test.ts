import assert from 'node:assert/strict';
import { test } from 'node:test';
import { leaseName } from './leadership.ts';

test('processes that share a ledger share its lease, by host, port and database alone', () => {
  const name = leaseName('postgres://plumb@db/plumb');
  assert.match(name, /^plumb-loop-[0-9a-f]{12}$/);
  for (const same of [
    'postgresql://other:secret@DB:5432/plumb',
    'postgres://plumb@db/plumb?sslmode=verify-full',
  ]) {
    assert.equal(leaseName(same), name, same);
  }
  for (const other of [
    'postgres://plumb@db/other',
    'postgres://plumb@db2/plumb',
    'postgres://db:5433/plumb',
  ]) {
    assert.notEqual(leaseName(other), name, other);
  }
});

test('a ledger in a folder is refused with the setting and the fix; what a bad address holds is not shown', () => {
  assert.throws(() => leaseName('pglite:.plumb/ledger'), {
    reason: 'CONFIGURATION_INVALID',
    message: /PLUMB_DATABASE_URL.*one process alone.*postgres:\/\/user@host\/database/,
  });
  assert.throws(
    () => leaseName('postgres://plumb:secret@db:no/plumb'),
    (error: Error) => {
      assert.match(error.message, /PLUMB_DATABASE_URL cannot be read/);
      assert.doesNotMatch(error.message, /secret/);
      return true;
    },
  );
});
