import { runningComponents } from '../state/running-system.ts';
import { existingStateFolder } from '../state/state-folder.ts';
import type { StateFolder } from '../state/state-folder.ts';

/** Where the dashboard of the system that runs in a state folder is found; undefined if none runs. */
export async function webAddress(
  state: string,
): Promise<{ readonly folder: StateFolder; readonly address: string } | undefined> {
  const folder = await existingStateFolder(state);
  if (folder === undefined) return undefined;
  const address = (await runningComponents(folder))?.find(({ name }) => name === 'loop')?.web;
  return address === undefined ? undefined : { folder, address };
}
