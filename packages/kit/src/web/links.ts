import { createHmac, hkdfSync, timingSafeEqual } from 'node:crypto';
import { jwtVerify, SignJWT } from 'jose';
import { isRole } from '../access/roles.ts';
import type { Caller, Role } from '../access/roles.ts';
import { watchFiles } from '../access/watched-files.ts';

/** What a link lets somebody do. */
export interface LinkGrant {
  /** Who, for the log and for labels; a pseudonym. */
  readonly name: string;
  readonly roles: readonly Role[];
  /** Confines it to rating one label session. */
  readonly session?: string | undefined;
  readonly expiresAt: Date;
}

/** Tokens and paths that are valid because of who signed them, and until when they say. */
export interface Links {
  /** A token for a caller. */
  token(grant: LinkGrant): Promise<string>;
  /** The caller of a token of ours that still holds; undefined for every other. */
  verify(token: string): Promise<Caller | undefined>;
  /** A path for everybody who has it, valid for some hours: artifacts are shown without a token in their address. */
  signPath(path: string): string;
  /** Whether a path with its `until` and `signature` is one that `signPath` made and still holds. */
  isSigned(path: string, query: URLSearchParams): boolean;
  close(): void;
}

const issuer = 'plumb-web';
/** Shortest key, in bytes: that of the hash. */
const shortestKey = 32;
/** Signed paths hold until the end of the next but one of these, so that the same path stays the same for a while and is cached. */
const periodSeconds = 6 * 3600;

interface Keys {
  readonly tokens: Uint8Array;
  readonly paths: Uint8Array;
}

/**
 * Opens the key that links are signed with. A new key in the file makes the links of the old one worthless.
 *
 * @throws PlumbError CONFIGURATION_INVALID when the file cannot be used
 */
export async function openLinks(keyFile: string): Promise<Links> {
  const keys = await watchFiles({
    what: 'the key of links',
    files: [{ path: keyFile, variable: 'PLUMB_WEB_KEY_FILE' }],
    parse: ([bytes]): Keys => {
      if (bytes === undefined || bytes.length < shortestKey) {
        throw new Error(
          `it has ${bytes?.length ?? 0} bytes; write ${shortestKey} random ones or more (openssl rand -hex 32)`,
        );
      }
      // One secret for each purpose: what signs a path can never sign a token.
      return { tokens: derive(bytes, 'plumb tokens'), paths: derive(bytes, 'plumb paths') };
    },
  });
  const sign = (path: string, until: string): Buffer =>
    createHmac('sha256', keys.current.paths).update(`${path}\n${until}`).digest();
  return {
    token: async ({ name, roles, session, expiresAt }) =>
      await new SignJWT({ roles, ...(session === undefined ? {} : { session }) })
        .setProtectedHeader({ alg: 'HS256' })
        .setIssuer(issuer)
        .setAudience(issuer)
        .setSubject(name)
        .setIssuedAt()
        .setExpirationTime(expiresAt)
        .sign(keys.current.tokens),
    verify: async (token) => {
      try {
        const { payload } = await jwtVerify(token, keys.current.tokens, {
          issuer,
          audience: issuer,
          algorithms: ['HS256'],
          requiredClaims: ['exp', 'sub'],
        });
        const { sub, roles, session } = payload;
        if (sub === undefined || !Array.isArray(roles)) return undefined;
        return {
          name: sub,
          roles: new Set(roles.filter((role) => typeof role === 'string').filter(isRole)),
          ...(typeof session === 'string' ? { session } : {}),
        };
      } catch {
        // Whatever is wrong with it, it is no token of ours; the doorkeeper says no more than that either.
        return undefined;
      }
    },
    signPath: (path) => {
      const until = String((Math.floor(Date.now() / 1000 / periodSeconds) + 2) * periodSeconds);
      return `${path}?until=${until}&signature=${sign(path, until).toString('base64url')}`;
    },
    isSigned: (path, query) => {
      const until = query.get('until') ?? '';
      if (!/^\d{1,12}$/.test(until) || Number(until) * 1000 <= Date.now()) return false;
      const given = Buffer.from(query.get('signature') ?? '', 'base64url');
      const right = sign(path, until);
      return given.length === right.length && timingSafeEqual(given, right);
    },
    close: () => {
      keys.close();
    },
  };
}

function derive(secret: Uint8Array, purpose: string): Uint8Array {
  return new Uint8Array(hkdfSync('sha256', secret, '', purpose, 32));
}
