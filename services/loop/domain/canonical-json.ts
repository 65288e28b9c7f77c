import serialize from 'canonicalize';

/**
 * Canonical JSON (RFC 8785) as UTF-8: equal values give equal bytes, and so equal hashes. Throws TypeError for values that
 * JSON does not have.
 */
export function canonicalJson(value: object): Uint8Array {
  const text = serialize(value);
  if (text === undefined) throw new TypeError('the value has no JSON form');
  return new TextEncoder().encode(text);
}
