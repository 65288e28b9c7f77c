import type { DescService } from '@bufbuild/protobuf';
import { connect } from '@plumb/client';
import type { RpcClient } from '@plumb/kit/rpc';
import type { ConnectionOptions } from './commands/connection-options.ts';
import { runningComponents } from './state/running-system.ts';
import { existingStateFolder } from './state/state-folder.ts';
import type { ComponentName } from './supervisor/embedded-system.ts';
import { withSystem } from './with-system.ts';

/** A service whose calls need no more than the parts of the system that are named. */
export interface ServiceNeeds<S extends DescService> {
  readonly service: S;
  /** Component that serves it. */
  readonly name: 'judge' | 'reward';
  /** Components that are started where none runs. */
  readonly only: readonly ComponentName[];
  /** The command, as messages name it. */
  readonly command: string;
  /** Largest answer, in bytes. */
  readonly maxReceiveBytes?: number;
}

/**
 * Does some work with a service: the one at an address, that of the system which runs in the state folder, or one that is
 * started for the work alone.
 * @returns the exit code
 */
export async function withService<S extends DescService>(
  needs: ServiceNeeds<S>,
  options: ConnectionOptions & { readonly state: string },
  work: (client: RpcClient<S>, signal: AbortSignal | undefined) => Promise<void>,
): Promise<number> {
  const { state, ...connection } = options;
  const use = async (address: string, signal?: AbortSignal): Promise<void> => {
    const { client, close } = await connect(needs.service, {
      ...connection,
      address,
      waitForReady: true,
      deadlineMs: 300_000,
      maxReceiveBytes: needs.maxReceiveBytes,
    });
    try {
      await work(client, signal);
    } finally {
      close();
    }
  };
  const folder = await existingStateFolder(state);
  const running = folder === undefined ? undefined : await runningComponents(folder);
  const known = options.address ?? running?.find(({ name }) => name === needs.name)?.address;
  if (known !== undefined) {
    await use(known);
    return 0;
  }
  return await withSystem(
    {
      state,
      fresh: false,
      ports: {},
      only: needs.only,
      command: needs.command,
      notice: (line) => {
        process.stderr.write(`${line}\n`);
      },
      stopNotice: 'Stopping.',
    },
    async () => {},
    async ({ addresses }, _, signal) => {
      await use(addresses[needs.name], signal);
    },
  );
}
