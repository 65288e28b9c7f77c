/** Hashes of values, whatever the order of their keys. */

import { createHash } from 'node:crypto';
import { configure } from 'safe-stable-stringify';

const stableStringify = configure({ deterministic: true, strict: true });

/** Lower-case hexadecimal SHA-256 over a JSON value with its keys in order. Keys that are undefined do not count. */
export function contentHash(value: Readonly<Record<string, unknown>>): string {
  return createHash('sha256')
    .update(stableStringify(value) ?? '')
    .digest('hex');
}
