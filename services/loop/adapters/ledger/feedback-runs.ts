import type { Ledger } from './tables.ts';

/** Runs that have not ended and whose idempotency key begins with a prefix. */
export async function listOpenRunsOf(
  ledger: Ledger,
  prefix: string,
): Promise<{ readonly id: string; readonly key: string }[]> {
  const rows = await ledger
    .selectFrom('runs')
    .select(['id', 'idempotency_key'])
    .where('state', 'in', ['running', 'paused'])
    .orderBy('created_at')
    .execute();
  return rows
    .filter(({ idempotency_key: key }) => key.startsWith(prefix))
    .map(({ id, idempotency_key: key }) => ({ id, key }));
}
