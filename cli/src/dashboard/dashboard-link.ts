import { randomBytes } from 'node:crypto';
import { open } from 'node:fs/promises';
import { openLinks } from '@plumb/kit/web';
import type { LinkGrant } from '@plumb/kit/web';
import type { StateFolder } from '../state/state-folder.ts';

/** Whom a link is for, and for how long. */
export interface LinkOptions extends Omit<LinkGrant, 'expiresAt' | 'session'> {
  readonly days: number;
}

/** The file with the key that signs the dashboard's links; made when it is not there. */
export async function webKeyFile(state: StateFolder): Promise<string> {
  const path = state.entry('web-key');
  try {
    const file = await open(path, 'wx', 0o600);
    try {
      await file.writeFile(`${randomBytes(32).toString('hex')}\n`);
    } finally {
      await file.close();
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  return path;
}

/** A link to the dashboard at an address. The token stands behind the `#`, which browsers send to nobody. */
export async function dashboardLink(
  state: StateFolder,
  address: string,
  { name, roles, days }: LinkOptions,
): Promise<string> {
  const links = await openLinks(await webKeyFile(state));
  try {
    const expiresAt = new Date(Date.now() + days * 24 * 3600 * 1000);
    return `http://${address}/#token=${await links.token({ name, roles, expiresAt })}`;
  } finally {
    links.close();
  }
}
