/** Accounts of runs in a JetStream key-value bucket: replicas share a budget, and a restart forgets nothing. */

import { createHash } from 'node:crypto';
import { jsonCodec } from '@plumb/kit/bus';
import type { Bus } from '@plumb/kit/bus';
import { PlumbError } from '@plumb/kit/errors';
import { accountRecordSchema, emptyAccount } from './spending.ts';
import type { AccountStore } from './spending.ts';

const maxAttempts = 50;

/**
 * Opens the bucket.
 *
 * @throws PlumbError UNAVAILABLE if it cannot be opened.
 */
export async function openKeyValueAccounts(bus: Bus, bucket: string): Promise<AccountStore> {
  const accounts = await bus.keyValue(bucket, jsonCodec(accountRecordSchema), { deadlineMs: 5000 });
  // A run's id is the caller's text; a hash of it is always a key.
  const keyOf = (runId: string): string => createHash('sha256').update(runId).digest('hex');
  return {
    get: async (runId) => (await accounts.get(keyOf(runId)))?.value,
    async update(runId, change) {
      const key = keyOf(runId);
      for (let attempt = 1; ; attempt += 1) {
        const entry = await accounts.get(key);
        const next = change(entry?.value ?? emptyAccount(runId));
        try {
          if (entry === undefined) await accounts.create(key, next);
          else await accounts.update(key, next, entry.revision);
          return next;
        } catch (error) {
          // Another replica was faster: its change is read and ours made on top.
          const { code, reason } = PlumbError.from(error);
          const conflict = code === 'ALREADY_EXISTS' || reason === 'REVISION_CONFLICT';
          if (!conflict || attempt >= maxAttempts) throw error;
        }
      }
    },
  };
}
