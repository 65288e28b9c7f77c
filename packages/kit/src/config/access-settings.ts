import { z } from 'zod';
import type { FieldViolation } from '../errors/error-fields.ts';
import { PlumbError } from '../errors/plumb-error.ts';
import { variableName } from './load-config.ts';

/** Signatures that can be checked without a shared secret. Source: RFC 7518, RFC 8037. */
const jwtAlgorithms = [
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
] as const;

const file = (what: string) => z.string().min(1).optional().describe(`the path of ${what}`);

const algorithms = z
  .string()
  .transform((text) => text.split(',').map((name) => name.trim()))
  .pipe(z.array(z.enum(jwtAlgorithms)).min(1));

/** Who may call a service, and how it calls others: encryption, identity, rights, limits. */
export const accessSettings = {
  /** With a certificate the server speaks TLS only; it also shows it as a client where it speaks TLS. */
  tlsCert: file('a PEM file with the certificate and its chain'),
  tlsKey: file("a PEM file with the certificate's key"),
  /** Demands a certificate of every client, signed by one of these (mutual TLS). */
  tlsClientCa: file('a PEM file with the authorities that sign certificates of clients'),
  /** Calls to other services speak TLS when this is set. */
  tlsCa: file("a PEM file with the authorities of the services that this one calls, or the word 'system'"),
  authCallersFile: file("a callers' file (docs/access.md)"),
  authJwks: z
    .string()
    .regex(
      /^(https:\/\/\S+|http:\/\/(127(\.\d{1,3}){3}|localhost|\[::1\])(:\d+)?(\/\S*)?|(?!\w+:\/\/).+)$/,
      'must be https, or http on loopback',
    )
    .optional()
    .describe('an https:// URL of a JSON Web Key Set, or the path of a file with one'),
  authJwtIssuer: z.string().min(1).optional().describe('the iss that tokens must have'),
  authJwtAudience: z.string().min(1).optional().describe('the aud that tokens must have'),
  authJwtAlgorithms: algorithms
    .default(['RS256', 'ES256', 'EdDSA'])
    .describe('a list such as RS256,ES256,EdDSA; algorithms with a shared secret are not to be had'),
  authJwtRolesClaim: z
    .string()
    .min(1)
    .default('plumb_roles')
    .describe('the claim that holds the roles, for example plumb_roles'),
  authJwtClockToleranceSeconds: z.coerce.number().min(0).max(300).default(5).describe('seconds, 0 to 300'),
  /** Limits of callers that have none of their own. */
  authCallsPerSecond: z.coerce
    .number()
    .positive()
    .max(1e6)
    .optional()
    .describe('calls a second of each caller, for example 100'),
  authItemsPerHour: z.coerce
    .number()
    .int()
    .positive()
    .max(1e9)
    .optional()
    .describe('items (clips to score, samples, labels) an hour of each caller, for example 100000'),
  /** What this service shows when it calls others. */
  authTokenFile: file('a file with the bearer token that this service sends'),
  insecurePlaintext: z.stringbool().default(false).describe('true or false'),
  insecureNoAuth: z.stringbool().default(false).describe('true or false'),
  reflection: z.stringbool().default(true).describe('true or false'),
  maxConnectionAgeSeconds: z.coerce
    .number()
    .positive()
    .max(31_536_000)
    .optional()
    .describe('seconds after which a connection is asked to be made anew, for example 300'),
  natsUser: z.string().min(1).optional().describe('the name of a user of the broker'),
  natsPasswordFile: file("a file with the user's password"),
  natsCredentialsFile: file('a .creds file'),
  /** Speaks TLS to the broker and trusts these. A tls:// URL without it trusts the system's list. */
  natsCa: file('a PEM file with the authorities of the broker'),
} as const satisfies z.ZodRawShape;

export type AccessSettings = z.output<z.ZodObject<typeof accessSettings>>;

/**
 * What no single setting can tell.
 *
 * @throws PlumbError CONFIGURATION_INVALID, a sentence for each thing that does not go together
 */
export function checkAccessSettings(settings: AccessSettings): void {
  const violations: FieldViolation[] = [];
  const together = (given: keyof AccessSettings, missing: keyof AccessSettings, why: string): void => {
    if (settings[given] === undefined || settings[missing] !== undefined) return;
    violations.push({
      field: variableName(missing),
      description: `${variableName(given)} is set and ${variableName(missing)} is not; ${why}`,
    });
  };
  together('tlsCert', 'tlsKey', 'a certificate is of no use without its key, so set both');
  together('tlsKey', 'tlsCert', 'a key is of no use without its certificate, so set both');
  together('tlsClientCa', 'tlsCert', 'a server that checks the certificates of clients needs one itself');
  together('authJwks', 'authJwtIssuer', 'a token is checked against its issuer, so name it');
  together(
    'authJwks',
    'authJwtAudience',
    'a token for somebody else must not be valid here, so name the audience',
  );
  together(
    'authJwtIssuer',
    'authJwks',
    'the signature of a token is checked with its keys, so say where they are',
  );
  together(
    'authJwtAudience',
    'authJwks',
    'the signature of a token is checked with its keys, so say where they are',
  );
  together('natsUser', 'natsPasswordFile', 'a user needs a password, so set both');
  together('natsPasswordFile', 'natsUser', 'a password needs its user, so set both');
  if (settings.natsUser !== undefined && settings.natsCredentialsFile !== undefined) {
    violations.push({
      field: 'PLUMB_NATS_CREDENTIALS_FILE',
      description:
        'PLUMB_NATS_USER and PLUMB_NATS_CREDENTIALS_FILE are both set; the broker takes one, so unset the other',
    });
  }
  const limited = settings.authCallsPerSecond !== undefined || settings.authItemsPerHour !== undefined;
  if (limited && settings.authCallersFile === undefined && settings.authJwks === undefined) {
    violations.push({
      field: 'PLUMB_AUTH_CALLERS_FILE',
      description:
        'PLUMB_AUTH_CALLS_PER_SECOND and PLUMB_AUTH_ITEMS_PER_HOUR count for each caller and nothing tells callers apart; set PLUMB_AUTH_CALLERS_FILE or PLUMB_AUTH_JWKS',
    });
  }
  if (violations.length === 0) return;
  throw new PlumbError({
    code: 'INVALID_ARGUMENT',
    reason: 'CONFIGURATION_INVALID',
    message: violations.map(({ description }) => description).join('; '),
    fieldViolations: violations,
  });
}
