import type { Command } from 'commander';
import type { ConnectOptions } from '@plumb/client';

/** What a command that calls a service which runs elsewhere is told of it. */
export type ConnectionOptions = Omit<ConnectOptions, 'address' | 'insecurePlaintext'> & {
  readonly address?: string;
};

/** Adds `--address` and how to get in there. A token comes from a file: a command line is seen by everybody. */
export function addConnectionOptions(command: Command, address: string): Command {
  return command
    .option('--address <host:port>', address)
    .option('--ca <file>', "speak TLS; PEM file of the authorities of the server, or 'system'")
    .option('--cert <file>', 'own certificate (PEM), where the server asks for one')
    .option('--key <file>', "the certificate's key (PEM)")
    .option('--token-file <file>', 'file with the bearer token to show')
    .hook('preAction', (_, acting) => {
      const options: ConnectionOptions = acting.opts();
      const { address: given, ca, cert, key, tokenFile } = options;
      if (given === undefined && [ca, cert, key, tokenFile].some((option) => option !== undefined)) {
        acting.error(
          'error: --ca, --cert, --key and --token-file go with --address; name the service to call',
        );
      }
      if ((cert === undefined) !== (key === undefined)) {
        acting.error('error: --cert and --key belong together; give both');
      }
      if (cert !== undefined && ca === undefined) {
        acting.error('error: --cert is shown over TLS only; give --ca <file>, or --ca system');
      }
    });
}
