import { failedPrecondition } from '@plumb/kit/errors';
import { findDeployment } from '../doctor/deployment.ts';
import type { Deployment } from '../doctor/deployment.ts';

/** What a backup is made of, and restored to. */
export interface BackedUp {
  readonly databaseUrl: string;
  readonly artifacts: string;
  readonly nats: Deployment['nats'];
}

/**
 * The deployment that the environment describes.
 * @throws PlumbError FAILED_PRECONDITION naming what is missing, and how an embedded system is copied
 */
export async function backedUp(env: Readonly<Record<string, string | undefined>>): Promise<BackedUp> {
  if (env['PLUMB_NATS_URL'] === undefined || env['PLUMB_NATS_URL'] === '') {
    throw failedPrecondition(
      'PLUMB_NATS_URL, PLUMB_DATABASE_URL and PLUMB_ARTIFACTS say what to back up and where to restore it; to back up an embedded system, stop it and copy its state folder',
    );
  }
  const { databaseUrl, artifacts, nats, credentials } = await findDeployment('', env);
  credentials.close();
  if (databaseUrl === undefined || artifacts === undefined) {
    throw failedPrecondition(
      `${databaseUrl === undefined ? 'PLUMB_DATABASE_URL' : 'PLUMB_ARTIFACTS'} is not set; give it the value that the services have`,
    );
  }
  return { databaseUrl, artifacts, nats };
}
