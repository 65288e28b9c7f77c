import { X509Certificate } from 'node:crypto';
import { createSecureContext, rootCertificates } from 'node:tls';
import { credentials, experimental, ServerCredentials } from '@grpc/grpc-js';
import type { ChannelCredentials, experimental as Experimental } from '@grpc/grpc-js';
import { watchFiles } from './watched-files.ts';
import type { Watched } from './watched-files.ts';

/** Certificates in PEM: a chain with its key, and the authority that the other side is checked against. */
interface Certificates {
  readonly certificate?: Buffer;
  readonly key?: Buffer;
  readonly authority?: Buffer;
}

/** A file and the setting or option that names it. */
export interface NamedFile {
  readonly path: string;
  readonly variable: string;
}

/** Which PEM files a side has. A certificate and its key come together. */
export interface CertificateFiles {
  readonly certificate?: NamedFile | undefined;
  readonly key?: NamedFile | undefined;
  /** The client's authorities (server), or the server's (client). The path 'system' is Node's own list. */
  readonly authority?: NamedFile | undefined;
  readonly everyMs?: number | undefined;
}

/** TLS from files. Connections that stand stay; new ones use what the files hold by then. */
export interface ReloadingTls<Credentials> {
  readonly credentials: Credentials;
  /** Looks at the files now. */
  refresh(): Promise<void>;
  close(): void;
}

/**
 * TLS of a server. With an authority every client must show a certificate that it signed.
 *
 * @throws PlumbError CONFIGURATION_INVALID when a file is missing, is no PEM, or a key does not fit its certificate
 */
export async function serverTls(files: CertificateFiles): Promise<ReloadingTls<ServerCredentials>> {
  const watched = await watch('the certificate of the server', files);
  return {
    credentials: new ReloadingServerCredentials(watched, files.authority !== undefined),
    refresh: () => watched.refresh(),
    close: () => {
      watched.close();
    },
  };
}

/**
 * TLS of a client: whom it trusts and, for mutual TLS, who it is.
 *
 * @throws PlumbError CONFIGURATION_INVALID as above
 */
export async function clientTls(files: CertificateFiles): Promise<ReloadingTls<ChannelCredentials>> {
  if (files.certificate === undefined && files.authority?.path === 'system') {
    return { credentials: credentials.createSsl(), refresh: () => Promise.resolve(), close: () => undefined };
  }
  const watched = await watch('the certificate of the client', files);
  const provider = new WatchedProvider(watched);
  return {
    credentials: experimental.createCertificateProviderChannelCredentials(
      provider,
      files.certificate === undefined ? null : provider,
    ),
    refresh: () => watched.refresh(),
    close: () => {
      watched.close();
    },
  };
}

async function watch(what: string, files: CertificateFiles): Promise<Watched<Certificates>> {
  const { certificate, key, everyMs } = files;
  const authority = files.authority?.path === 'system' ? undefined : files.authority;
  const present = [certificate, key, authority].filter((file) => file !== undefined);
  return await watchFiles({
    what,
    files: present,
    ...(everyMs === undefined ? {} : { everyMs }),
    parse: (contents) => {
      const of = (file: NamedFile | undefined) =>
        file === undefined ? undefined : contents[present.indexOf(file)];
      const found = { certificate: of(certificate), key: of(key), authority: of(authority) };
      // Throws on what is no PEM and on a key of another certificate, which is seen while files are being replaced.
      createSecureContext({ cert: found.certificate, key: found.key, ca: found.authority });
      refuseExpired(found.certificate);
      refuseExpired(found.authority);
      return {
        ...(found.certificate === undefined ? {} : { certificate: found.certificate }),
        ...(found.key === undefined ? {} : { key: found.key }),
        ...(found.authority === undefined ? {} : { authority: found.authority }),
      };
    },
  });
}

/** @throws Error for what is no certificate, too */
function refuseExpired(pem: Buffer | undefined): void {
  if (pem === undefined) return;
  const { subject, validTo, validToDate } = new X509Certificate(pem);
  if (validToDate.getTime() < Date.now()) {
    throw new Error(`the certificate of ${subject.replaceAll('\n', ', ')} expired on ${validTo}`);
  }
}

/** grpc-js asks credentials for a secure context once and then listens for newer ones. */
class ReloadingServerCredentials extends ServerCredentials {
  constructor(watched: Watched<Certificates>, mutual: boolean) {
    super(
      { requestCert: mutual, rejectUnauthorized: mutual, minVersion: 'TLSv1.2' },
      contextOf(watched.current),
    );
    watched.onChange((certificates) => {
      this.updateSecureContextOptions(contextOf(certificates));
    });
  }

  override _equals(other: ServerCredentials): boolean {
    return this === other;
  }
}

function contextOf({ certificate, key, authority }: Certificates) {
  return {
    ...(certificate === undefined ? {} : { cert: [certificate] }),
    ...(key === undefined ? {} : { key: [key] }),
    ...(authority === undefined ? {} : { ca: authority }),
  };
}

/** The form in which a grpc-js channel takes certificates that change. */
class WatchedProvider implements Experimental.CertificateProvider {
  readonly #watched: Watched<Certificates>;
  readonly #authorities = new Set<Experimental.CaCertificateUpdateListener>();
  readonly #identities = new Set<Experimental.IdentityCertificateUpdateListener>();

  constructor(watched: Watched<Certificates>) {
    this.#watched = watched;
    watched.onChange(() => {
      for (const listener of this.#authorities) this.#tellAuthority(listener);
      for (const listener of this.#identities) this.#tellIdentity(listener);
    });
  }

  addCaCertificateListener(listener: Experimental.CaCertificateUpdateListener): void {
    this.#authorities.add(listener);
    this.#tellAuthority(listener);
  }

  removeCaCertificateListener(listener: Experimental.CaCertificateUpdateListener): void {
    this.#authorities.delete(listener);
  }

  addIdentityCertificateListener(listener: Experimental.IdentityCertificateUpdateListener): void {
    this.#identities.add(listener);
    this.#tellIdentity(listener);
  }

  removeIdentityCertificateListener(listener: Experimental.IdentityCertificateUpdateListener): void {
    this.#identities.delete(listener);
  }

  #tellAuthority(listener: Experimental.CaCertificateUpdateListener): void {
    const { authority } = this.#watched.current;
    listener({ caCertificate: authority ?? Buffer.from(rootCertificates.join('\n')) });
  }

  #tellIdentity(listener: Experimental.IdentityCertificateUpdateListener): void {
    const { certificate, key } = this.#watched.current;
    listener(certificate === undefined || key === undefined ? null : { certificate, privateKey: key });
  }
}
