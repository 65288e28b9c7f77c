import { PlumbError, unavailable } from '@plumb/kit/errors';
import type { ConnectionOptions } from '../commands/connection-options.ts';
import { listenForInterruption } from '../interrupt.ts';
import { runningComponents } from '../state/running-system.ts';
import { existingStateFolder } from '../state/state-folder.ts';
import type { ComponentName } from '../supervisor/embedded-system.ts';
import { withSystem } from '../with-system.ts';
import { openLoop } from './loop-client.ts';
import type { LabelClient, LoopClient, RegistryClient } from './loop-client.ts';

/** A loop service that answers. */
export interface LoopConnection {
  readonly loop: LoopClient;
  readonly registry: RegistryClient;
  readonly labels: LabelClient;
  /** Artifact store, a folder or s3://bucket/prefix; for a loop at an address what PLUMB_ARTIFACTS says, if anything. */
  readonly artifactFolder: string | undefined;
  /** True where the loop ends with this command. */
  readonly temporary: boolean;
  readonly signal: AbortSignal;
}

/** How long a loop at an address has for its first answer, in milliseconds. */
const firstAnswerMs = 15_000;

/** Where the loop is. */
export interface LoopOptions extends ConnectionOptions {
  readonly state: string;
}

/**
 * Does some work with a loop service: the one at an address, that of the system that runs in the state folder, or one that is
 * started for the work.
 * @param only what is started where nothing runs: the loop and its broker for questions, all for a run
 * @returns the exit code
 */
export async function withLoop(
  options: LoopOptions & {
    readonly command: string;
    readonly only?: readonly ComponentName[];
    readonly fresh?: boolean;
    readonly notice: (line: string) => void;
  },
  work: (connection: LoopConnection) => Promise<void>,
): Promise<number> {
  const { state, address, only, notice, command } = options;
  if (address !== undefined) {
    return await connected({ ...options, address }, process.env['PLUMB_ARTIFACTS'], work);
  }
  const folder = await existingStateFolder(state);
  const running =
    folder === undefined ? undefined : (await runningComponents(folder))?.find(({ name }) => name === 'loop');
  if (folder !== undefined && running !== undefined) {
    return await connected({ address: running.address }, folder.entry('artifacts'), work);
  }
  return await withSystem(
    {
      state,
      fresh: options.fresh === true,
      ports: {},
      ...(only === undefined ? {} : { only }),
      command,
      // A question is answered without telling how.
      notice: only === undefined ? notice : () => {},
      stopNotice: 'Stopping in order; Ctrl-C again ends at once.',
    },
    async () => {},
    async (system, _prepared, signal) => {
      const clients = await openLoop({ address: system.addresses.loop });
      try {
        await work({ ...clients, artifactFolder: system.artifactFolder, temporary: true, signal });
      } finally {
        clients.close();
      }
    },
  );
}

async function connected(
  where: ConnectionOptions & { readonly address: string },
  artifactFolder: string | undefined,
  work: (connection: LoopConnection) => Promise<void>,
): Promise<number> {
  const clients = await openLoop(where);
  const interruption = listenForInterruption({ kill: () => {}, notice: () => {} });
  try {
    await answers(clients.loop, where.address, interruption.signal);
    await work({ ...clients, artifactFolder, temporary: false, signal: interruption.signal });
  } catch (error) {
    if (!interruption.signal.aborted) throw error;
  } finally {
    interruption.close();
    clients.close();
  }
  return interruption.exitCode ?? 0;
}

/** A service that restarts is waited for; one that has never been there is named, with the fix. */
async function answers(loop: LoopClient, address: string, signal: AbortSignal): Promise<void> {
  try {
    await loop.listRuns({ pageSize: 1 }, { signal, deadlineMs: firstAnswerMs });
  } catch (thrown) {
    const error = PlumbError.from(thrown);
    if (signal.aborted || !error.retryable) throw error;
    throw unavailable(
      `no loop service answers at ${address} (${error.message}); see to the address, or start a system with \`./plumb up\``,
      { reason: 'CONNECTION_FAILED', cause: thrown },
    );
  }
}
