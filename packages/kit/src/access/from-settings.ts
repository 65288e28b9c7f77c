import type { ServerCredentials } from '@grpc/grpc-js';
import type { AccessSettings } from '../config/access-settings.ts';
import { openAccess } from './access.ts';
import type { Access } from './access.ts';
import { serverTls } from './certificates.ts';
import type { NamedFile, ReloadingTls } from './certificates.ts';
import { openClientCredentials } from './client-credentials.ts';
import type { ClientCredentials } from './client-credentials.ts';

/** How a service is called, and how it calls. */
export interface ServiceAccess {
  readonly tls: ReloadingTls<ServerCredentials> | undefined;
  readonly access: Access | undefined;
  readonly outgoing: ClientCredentials;
  close(): void;
}

/**
 * Opens everything that a service's settings say of access.
 *
 * @throws PlumbError CONFIGURATION_INVALID when a file cannot be used
 */
export async function openServiceAccess(settings: AccessSettings): Promise<ServiceAccess> {
  const certificate = named(settings.tlsCert, 'PLUMB_TLS_CERT');
  const key = named(settings.tlsKey, 'PLUMB_TLS_KEY');
  const tls =
    certificate === undefined
      ? undefined
      : await serverTls({ certificate, key, authority: named(settings.tlsClientCa, 'PLUMB_TLS_CLIENT_CA') });
  const { authCallersFile, authJwks, authJwtIssuer: issuer, authJwtAudience: audience } = settings;
  const jwt =
    authJwks === undefined || issuer === undefined || audience === undefined
      ? undefined
      : {
          keys: authJwks,
          issuer,
          audience,
          algorithms: settings.authJwtAlgorithms,
          rolesClaim: settings.authJwtRolesClaim,
          clockToleranceSeconds: settings.authJwtClockToleranceSeconds,
        };
  const access =
    authCallersFile === undefined && jwt === undefined
      ? undefined
      : await openAccess({
          callersFile: authCallersFile,
          jwt,
          limits: { callsPerSecond: settings.authCallsPerSecond, itemsPerHour: settings.authItemsPerHour },
        });
  const outgoing = await openClientCredentials({
    ca: named(settings.tlsCa, 'PLUMB_TLS_CA'),
    certificate,
    key,
    token: named(settings.authTokenFile, 'PLUMB_AUTH_TOKEN_FILE'),
    insecurePlaintext: settings.insecurePlaintext,
  });
  return {
    tls,
    access,
    outgoing,
    close: () => {
      tls?.close();
      access?.close();
      outgoing.close();
    },
  };
}

function named(path: string | undefined, variable: string): NamedFile | undefined {
  return path === undefined ? undefined : { path, variable };
}
