import { credentials } from '@grpc/grpc-js';
import type { ChannelCredentials } from '@grpc/grpc-js';
import { clientTls } from './certificates.ts';
import type { NamedFile } from './certificates.ts';
import { watchFiles } from './watched-files.ts';

/** What a client shows and whom it trusts; files are read again when they change. */
export interface ClientCredentialFiles {
  /** PEM file of the authorities of servers, or 'system'. TLS is spoken when it is given. */
  readonly ca?: NamedFile | undefined;
  /** Own certificate and key, for mutual TLS. */
  readonly certificate?: NamedFile | undefined;
  readonly key?: NamedFile | undefined;
  /** File that holds a bearer token and nothing else. */
  readonly token?: NamedFile | undefined;
  /** Sends the token in plain text to other machines too. */
  readonly insecurePlaintext?: boolean | undefined;
  /** Time between two looks at the files, 2 s by default. */
  readonly everyMs?: number | undefined;
}

/** The credentials of a process for its calls; any number of clients share them. */
export interface ClientCredentials {
  readonly channel: ChannelCredentials;
  readonly encrypted: boolean;
  readonly insecurePlaintext: boolean;
  /** The bearer token of this moment; undefined without one. */
  token(): string | undefined;
  /** Looks at the files now. */
  refresh(): Promise<void>;
  close(): void;
}

/** @throws PlumbError CONFIGURATION_INVALID when a file cannot be used */
export async function openClientCredentials(files: ClientCredentialFiles): Promise<ClientCredentials> {
  const { ca, certificate, key, token, everyMs } = files;
  const tls = ca === undefined ? undefined : await clientTls({ authority: ca, certificate, key, everyMs });
  const watched =
    token === undefined
      ? undefined
      : await watchFiles({
          what: 'the token file',
          files: [token],
          ...(everyMs === undefined ? {} : { everyMs }),
          parse: ([bytes]) => {
            const text = bytes?.toString('utf8').trim() ?? '';
            if (!/^[\w.~+/=-]+$/.test(text)) throw new Error('it must hold one token and nothing else');
            return text;
          },
        });
  return {
    channel: tls?.credentials ?? credentials.createInsecure(),
    encrypted: tls !== undefined,
    insecurePlaintext: files.insecurePlaintext === true,
    token: () => watched?.current,
    refresh: async () => {
      await Promise.all([tls?.refresh(), watched?.refresh()]);
    },
    close: () => {
      tls?.close();
      watched?.close();
    },
  };
}
