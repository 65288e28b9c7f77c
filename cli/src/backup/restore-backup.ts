import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { restoreBuckets } from '@plumb/kit/bus';
import { dataLoss, failedPrecondition, invalidArgument } from '@plumb/kit/errors';
import { openArtifactStore, openFolderStore } from '@plumb/media';
import pg from 'pg';
import { artifactFolder, backupFiles, backupManifestSchema, bucketsSchema } from './backup-folder.ts';
import type { BackedUp } from './backed-up.ts';
import { runPostgresProgram } from './make-backup.ts';

/**
 * Brings a backup into an empty deployment: artifacts first, then buckets, then the ledger in one transaction, so that whoever
 * sees the ledger finds what it names. Services must not run.
 *
 * @returns how many artifacts were written
 * @throws PlumbError INVALID_ARGUMENT for a folder that is no backup; DATA_LOSS for a damaged one; FAILED_PRECONDITION when
 *   database or broker have something in them. Nothing is written before these are checked.
 */
export async function restoreBackup(folder: string, target: BackedUp): Promise<number> {
  const source = resolve(folder);
  const manifest = await readManifest(source);
  const read = async (file: 'ledger' | 'buckets'): Promise<Buffer> => {
    const path = join(source, backupFiles[file]);
    const bytes = await readFile(path);
    if (createHash('sha256').update(bytes).digest('hex') !== manifest.sha256[file])
      throw dataLoss(`${path} is not what was backed up (its hash differs); take another backup`);
    return bytes;
  };
  const buckets = bucketsSchema.parse(JSON.parse((await read('buckets')).toString('utf8')));
  await read('ledger');
  await requireEmptyDatabase(target.databaseUrl);

  const from = await openFolderStore(join(source, artifactFolder));
  const to = await openArtifactStore(target.artifacts);
  for (const { uri, sha256 } of manifest.artifacts)
    await to.put(await from.get(uri, sha256), { mediaType: 'application/octet-stream' });
  await restoreBuckets(
    { ...target.nats, name: 'plumb' },
    buckets.map(({ entries, ...bucket }) => ({
      ...bucket,
      entries: entries.map(({ key, value }) => ({ key, value: Buffer.from(value, 'base64') })),
    })),
  );
  await runPostgresProgram('psql', target.databaseUrl, [
    '--no-psqlrc',
    '--quiet',
    '--single-transaction',
    '--set=ON_ERROR_STOP=1',
    '--output=/dev/null',
    `--file=${join(source, backupFiles.ledger)}`,
  ]);
  return manifest.artifacts.length;
}

async function readManifest(folder: string): Promise<ReturnType<typeof backupManifestSchema.parse>> {
  const path = join(folder, backupFiles.manifest);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw invalidArgument(
      'folder',
      `${folder} is no finished backup (it has no ${backupFiles.manifest}); name a folder that plumb backup create wrote`,
    );
  }
  return backupManifestSchema.parse(JSON.parse(text));
}

async function requireEmptyDatabase(databaseUrl: string): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl, connectionTimeoutMillis: 10_000 });
  await client.connect();
  try {
    const { rows } = await client.query<{ tables: string }>(
      "select count(*) as tables from information_schema.tables where table_schema not in ('pg_catalog', 'information_schema')",
    );
    const tables = Number(rows[0]?.tables ?? 0);
    if (tables > 0) {
      throw failedPrecondition(
        `the database of PLUMB_DATABASE_URL has ${tables} tables already; restore into an empty one (createdb), before any service has started`,
      );
    }
  } finally {
    await client.end();
  }
}
