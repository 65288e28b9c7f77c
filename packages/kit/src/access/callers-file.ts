import { createHash, timingSafeEqual } from 'node:crypto';
import { parse } from 'yaml';
import { z } from 'zod';
import { roles } from './roles.ts';
import type { Caller } from './roles.ts';

const callersFile = z.strictObject({
  callers: z
    .array(
      z
        .strictObject({
          name: z.string().regex(/^[a-z0-9][a-z0-9._-]{0,62}$/, 'must be lower-case letters, digits, . _ -'),
          roles: z.array(z.enum(roles)).min(1),
          tokenSha256: z
            .string()
            .regex(/^[0-9a-f]{64}$/, "must be the token's SHA-256: 64 lower-case hexadecimal digits")
            .optional(),
          certificate: z.string().min(1).optional(),
          callsPerSecond: z.number().positive().max(1e6).optional(),
          itemsPerHour: z.number().int().positive().max(1e9).optional(),
        })
        .refine((caller) => caller.tokenSha256 !== undefined || caller.certificate !== undefined, {
          message: 'needs tokenSha256, certificate or both',
        }),
    )
    .min(1),
});

/** The callers that a file names. */
export interface Callers {
  /** Whose token this is. Takes equally long for every token of a length. */
  byToken(token: string): Caller | undefined;
  /** Whose certificate has one of these names. */
  byCertificate(names: readonly string[]): Caller | undefined;
}

/** Of no file. */
export const noCallers: Callers = { byToken: () => undefined, byCertificate: () => undefined };

/**
 * Reads a callers' file, YAML. What goes wrong is told by place, never by content.
 *
 * @throws Error naming the entry and the fix
 */
export function parseCallers(bytes: Buffer): Callers {
  let document: unknown;
  try {
    document = parse(bytes.toString('utf8'));
  } catch {
    // The parser's message quotes the lines around the mistake.
    throw new Error('it is not valid YAML');
  }
  const parsed = callersFile.safeParse(document);
  if (!parsed.success) {
    const problems = parsed.error.issues.map(
      ({ path, message }) => `${path.join('.') || 'the file'}: ${message}`,
    );
    throw new Error(problems.join('; '));
  }
  const tokens: { readonly hash: Buffer; readonly caller: Caller }[] = [];
  const certificates = new Map<string, Caller>();
  const names = new Set<string>();
  for (const { name, roles: granted, tokenSha256, certificate, callsPerSecond, itemsPerHour } of parsed.data
    .callers) {
    if (names.has(name)) throw new Error(`callers: '${name}' is there twice; merge the two`);
    names.add(name);
    const caller: Caller = { name, roles: new Set(granted), callsPerSecond, itemsPerHour };
    if (tokenSha256 !== undefined) {
      const hash = Buffer.from(tokenSha256, 'hex');
      if (tokens.some((other) => other.hash.equals(hash)))
        throw new Error(`callers: '${name}' has the token of another`);
      tokens.push({ hash, caller });
    }
    if (certificate !== undefined) {
      if (certificates.has(certificate)) throw new Error(`callers: '${name}' has the certificate of another`);
      certificates.set(certificate, caller);
    }
  }
  return {
    byToken: (token) => {
      const presented = createHash('sha256').update(token).digest();
      let found: Caller | undefined;
      // All of them, each in constant time: how long it takes tells nothing of what is in the file.
      for (const { hash, caller } of tokens) if (timingSafeEqual(hash, presented)) found = caller;
      return found;
    },
    byCertificate: (presented) => {
      for (const name of presented) {
        const caller = certificates.get(name);
        if (caller !== undefined) return caller;
      }
      return undefined;
    },
  };
}
