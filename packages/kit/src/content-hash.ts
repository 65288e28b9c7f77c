/** `@plumb/kit/content-hash`: hashes of values, whatever the order of their keys. */

import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';

/** Lower-case hexadecimal SHA-256 over a JSON value in canonical form (RFC 8785). Keys that are undefined do not count. */
export function contentHash(value: Readonly<Record<string, unknown>>): string {
  return createHash('sha256')
    .update(canonicalize(value) ?? '')
    .digest('hex');
}
