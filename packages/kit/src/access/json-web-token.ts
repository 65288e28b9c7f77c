import { createLocalJWKSet, createRemoteJWKSet, errors, jwtVerify } from 'jose';
import type { JSONWebKeySet, JWTPayload, JWTVerifyGetKey } from 'jose';
import { unavailable } from '../errors/shorthand.ts';
import { logger } from '../telemetry/logger.ts';
import { isRole } from './roles.ts';
import type { Caller } from './roles.ts';
import { watchFiles } from './watched-files.ts';

export interface TokenVerification {
  /** An https:// URL (http:// on loopback only), or the path of a file with a JSON Web Key Set. */
  readonly keys: string;
  readonly issuer: string;
  readonly audience: string;
  readonly algorithms: readonly string[];
  /** Claim that holds the roles: an array, or a text with spaces between. */
  readonly rolesClaim: string;
  readonly clockToleranceSeconds: number;
  readonly everyMs?: number | undefined;
}

export interface TokenVerifier {
  /** The caller of a valid token; undefined for every other. @throws PlumbError UNAVAILABLE when the keys cannot be had */
  verify(token: string): Promise<Caller | undefined>;
  refresh(): Promise<void>;
  close(): void;
}

/**
 * Checks JSON Web Tokens: signature, algorithm, issuer, audience, expiry. Keys come from the configured place alone; what
 * a token's header says about keys (jku, x5u, jwk) is never followed.
 *
 * @throws PlumbError CONFIGURATION_INVALID when the file of keys cannot be used
 */
export async function openTokenVerifier(options: TokenVerification): Promise<TokenVerifier> {
  const keys = await openKeys(options);
  const { issuer, audience, algorithms, rolesClaim, clockToleranceSeconds: clockTolerance } = options;
  return {
    verify: async (token) => {
      try {
        const { payload } = await jwtVerify(token, keys.find, {
          issuer,
          audience,
          clockTolerance,
          algorithms: [...algorithms],
          requiredClaims: ['exp', 'sub'],
        });
        return callerOf(payload, rolesClaim);
      } catch (error) {
        if (isRefusal(error)) return undefined;
        logger('access').error({ error, keys: options.keys }, 'the keys of tokens cannot be had');
        throw unavailable('access cannot be checked at the moment; try again', { cause: error });
      }
    },
    refresh: keys.refresh,
    close: keys.close,
  };
}

interface Keys {
  readonly find: JWTVerifyGetKey;
  readonly refresh: () => Promise<void>;
  readonly close: () => void;
}

async function openKeys({ keys, everyMs }: TokenVerification): Promise<Keys> {
  if (/^https?:\/\//.test(keys)) {
    // Fetched when needed, kept for ten minutes, and at most every 30 s for tokens with a key that is not known.
    const find = createRemoteJWKSet(new URL(keys), { timeoutDuration: 5000, cooldownDuration: 30_000 });
    return { find, refresh: () => Promise.resolve(), close: () => undefined };
  }
  const watched = await watchFiles({
    what: 'the key set',
    files: [{ path: keys, variable: 'PLUMB_AUTH_JWKS' }],
    ...(everyMs === undefined ? {} : { everyMs }),
    parse: ([bytes]) => {
      // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- jose checks it and throws
      return createLocalJWKSet(JSON.parse(bytes?.toString('utf8') ?? '') as JSONWebKeySet);
    },
  });
  return {
    find: async (header, token) => await watched.current(header, token),
    refresh: () => watched.refresh(),
    close: () => {
      watched.close();
    },
  };
}

function callerOf(payload: JWTPayload, rolesClaim: string): Caller | undefined {
  if (typeof payload.sub !== 'string' || payload.sub === '') return undefined;
  const claimed: unknown = payload[rolesClaim];
  const names: readonly unknown[] =
    typeof claimed === 'string' ? claimed.split(' ') : Array.isArray(claimed) ? claimed : [];
  return {
    name: `jwt:${payload.sub}`,
    roles: new Set(names.filter((name) => typeof name === 'string').filter(isRole)),
  };
}

/** True when the token is at fault, false when its keys could not be had. */
function isRefusal(error: unknown): boolean {
  return (
    error instanceof errors.JOSEError &&
    !(error instanceof errors.JWKSTimeout) &&
    // What jose throws for a key set that cannot be fetched or read.
    error.code !== 'ERR_JOSE_GENERIC' &&
    !(error instanceof errors.JWKSInvalid)
  );
}
