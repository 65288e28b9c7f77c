import { failedPrecondition } from '@plumb/kit/errors';
import { runningComponents } from '../state/running-system.ts';
import { existingStateFolder, openStateFolder } from '../state/state-folder.ts';
import type { StateFolder } from '../state/state-folder.ts';
import { withSystem } from '../with-system.ts';
import { openModelRegistry } from './model-registry.ts';
import type { ModelRegistry } from './model-registry.ts';

/**
 * Does some work with the registry of a state folder: that of the system that runs in it, or, where none does, of a
 * broker that is started for the work alone.
 * @param options create: makes the state folder where there is none
 * @returns the exit code
 * @throws PlumbError FAILED_PRECONDITION if the folder is not a Plumb state folder
 */
export async function withRegistry(
  path: string,
  work: (registry: ModelRegistry, state: StateFolder) => Promise<void>,
  options: { readonly create?: boolean } = {},
): Promise<number> {
  const state = options.create === true ? await openStateFolder(path) : await existingStateFolder(path);
  if (state === undefined) {
    throw failedPrecondition(
      `${path} is not a Plumb state folder; \`./plumb demo\` or \`./plumb train\` makes one, or name another with --state`,
    );
  }
  const use = async (address: string): Promise<void> => {
    const registry = await openModelRegistry(`nats://${address}`);
    try {
      await work(registry, state);
    } finally {
      await registry.close();
    }
  };
  const broker = (await runningComponents(state))?.find(({ name }) => name === 'nats-server');
  if (broker !== undefined) {
    await use(broker.address);
    return 0;
  }
  return withSystem(
    {
      state: path,
      fresh: false,
      ports: {},
      only: ['nats-server'],
      command: 'models',
      // It is there for a second.
      notice: () => {},
      stopNotice: 'Stopping.',
    },
    async () => {},
    ({ addresses }) => use(addresses.nats),
  );
}
