import type { DescService } from '@bufbuild/protobuf';
import { createClient, openClientCredentials } from '@plumb/kit/rpc';
import type { RpcClient } from '@plumb/kit/rpc';

/** Where a service is, and what it is shown. Files are read again when they change. */
export interface ConnectOptions {
  /** `host:port`, or a gRPC target such as `dns:///reward.plumb:50051`, whose addresses share the calls. */
  readonly address: string;
  /** PEM file of the authorities that sign the server's certificate, or 'system'. TLS is spoken when it is given. */
  readonly ca?: string | undefined;
  /** PEM files of an own certificate and its key, for mutual TLS. */
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
  /** File with a bearer token. It goes to other machines over TLS only. */
  readonly tokenFile?: string | undefined;
  /** Sends the token in plain text to other machines too: only where the network itself encrypts. */
  readonly insecurePlaintext?: boolean | undefined;
  /** Waits for the server to come up, up to the deadline of a call, and does not fail at once. */
  readonly waitForReady?: boolean | undefined;
  /** Deadline of calls that name none and have one answer, in milliseconds; 30,000 by default. */
  readonly deadlineMs?: number | undefined;
  /** Largest answer that is taken, in bytes; 8 MiB by default. */
  readonly maxReceiveBytes?: number | undefined;
}

export interface Connected<S extends DescService> {
  /** One function for each method. Everything it throws is a PlumbError. */
  readonly client: RpcClient<S>;
  readonly close: () => void;
}

/**
 * A client of any service of the platform. Methods that the contracts call idempotent are sent again on UNAVAILABLE.
 *
 * @throws PlumbError CONFIGURATION_INVALID when a file cannot be used, or a token would travel in plain text
 */
export async function connect<S extends DescService>(
  service: S,
  options: ConnectOptions,
): Promise<Connected<S>> {
  return await open(service, options, 'idempotent');
}

/** As `connect`, with a choice of the methods that the connection itself sends again. */
export async function open<S extends DescService>(
  service: S,
  options: ConnectOptions,
  retry: 'idempotent' | 'none',
): Promise<Connected<S>> {
  const { address, ca, cert, key, tokenFile, insecurePlaintext } = options;
  const named = (path: string | undefined, variable: string) =>
    path === undefined ? undefined : { path, variable };
  const credentials = await openClientCredentials({
    ca: named(ca, 'ca'),
    certificate: named(cert, 'cert'),
    key: named(key, 'key'),
    token: named(tokenFile, 'tokenFile'),
    insecurePlaintext,
  });
  try {
    const client = createClient(service, address, {
      credentials,
      retry,
      waitForReady: options.waitForReady === true,
      ...(options.deadlineMs === undefined ? {} : { defaultDeadlineMs: options.deadlineMs }),
      ...(options.maxReceiveBytes === undefined ? {} : { maxReceiveBytes: options.maxReceiveBytes }),
    });
    return {
      client,
      close: () => {
        client.close();
        credentials.close();
      },
    };
  } catch (error) {
    credentials.close();
    throw error;
  }
}
