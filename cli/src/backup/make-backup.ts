import { execFile } from 'node:child_process';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { saveBuckets } from '@plumb/kit/bus';
import { failedPrecondition, PlumbError } from '@plumb/kit/errors';
import { openArtifactStore, openFolderStore } from '@plumb/media';
import type { ArtifactStore } from '@plumb/media';
import { createHash } from 'node:crypto';
import { artifactFolder, backupFiles } from './backup-folder.ts';
import type { BackedUp } from './backed-up.ts';

/** What a backup holds. */
export interface BackupResult {
  readonly folder: string;
  readonly artifacts: number;
  readonly bytes: number;
  /** Artifacts that the ledger names and the store does not have: superseded states of training, or a loss. */
  readonly missing: readonly string[];
}

const reference = /artifact:sha256\/([0-9a-f]{64})/g;

/**
 * Copies ledger, buckets and every artifact that they name, directly or through a manifest, into a new folder. Services may run
 * meanwhile: the ledger is read in one snapshot, and artifacts never change. The ledger is read first, so that what it names is
 * in the store.
 *
 * @throws PlumbError FAILED_PRECONDITION when the folder has something in it, or pg_dump is missing or fails
 */
export async function makeBackup(source: BackedUp, folder: string): Promise<BackupResult> {
  const target = resolve(folder);
  await mkdir(target, { recursive: true });
  if ((await readdir(target)).length > 0)
    throw failedPrecondition(`${target} is not empty; name a new folder with --output`);
  const ledgerPath = join(target, backupFiles.ledger);
  await runPostgresProgram('pg_dump', source.databaseUrl, [
    '--no-owner',
    '--no-privileges',
    `--file=${ledgerPath}`,
  ]);
  const ledger = await readFile(ledgerPath);
  const saved = await saveBuckets({ ...source.nats, name: 'plumb' });
  const buckets = JSON.stringify(
    saved.map(({ entries, ...bucket }) => ({
      ...bucket,
      entries: entries.map(({ key, value }) => ({ key, value: Buffer.from(value).toString('base64') })),
    })),
  );
  await writeFile(join(target, backupFiles.buckets), buckets);

  const from = await openArtifactStore(source.artifacts);
  const to = await openFolderStore(join(target, artifactFolder));
  const roots = [
    ledger.toString('latin1'),
    ...saved.flatMap(({ entries }) => entries.map(({ value }) => Buffer.from(value).toString('latin1'))),
  ];
  const copied = await copyReferenced(from, to, roots);
  const hash = (bytes: Uint8Array | string): string => createHash('sha256').update(bytes).digest('hex');
  await writeFile(
    join(target, backupFiles.manifest),
    `${JSON.stringify(
      {
        kind: 'plumb.backup',
        madeAt: new Date().toISOString(),
        sha256: { ledger: hash(ledger), buckets: hash(buckets) },
        artifacts: copied.artifacts,
      },
      undefined,
      2,
    )}\n`,
  );
  return { folder: target, artifacts: copied.artifacts.length, bytes: copied.bytes, missing: copied.missing };
}

/** Copies what texts name, and what the manifests among it name in turn. */
async function copyReferenced(
  from: ArtifactStore,
  to: ArtifactStore,
  roots: readonly string[],
): Promise<{ artifacts: { uri: string; sha256: string }[]; bytes: number; missing: string[] }> {
  const wanted = new Set<string>();
  const see = (text: string): void => {
    for (const [, sha256] of text.matchAll(reference)) if (sha256 !== undefined) wanted.add(sha256);
  };
  for (const text of roots) see(text);
  const artifacts: { uri: string; sha256: string }[] = [];
  const missing: string[] = [];
  let bytes = 0;
  // Grows while it is walked: a set gives what is added to it.
  for (const sha256 of wanted) {
    const uri = `artifact:sha256/${sha256}`;
    let content: Uint8Array;
    try {
      content = await from.get(uri, sha256);
    } catch (thrown) {
      if (PlumbError.from(thrown).code !== 'NOT_FOUND') throw thrown;
      missing.push(uri);
      continue;
    }
    // Manifests are JSON; clips and weights name nobody.
    if (content[0] === '{'.charCodeAt(0)) see(Buffer.from(content).toString('latin1'));
    await to.put(content, { mediaType: 'application/octet-stream' });
    artifacts.push({ uri, sha256 });
    bytes += content.byteLength;
  }
  return { artifacts: artifacts.toSorted((a, b) => (a.sha256 < b.sha256 ? -1 : 1)), bytes, missing };
}

/**
 * Runs a program of PostgreSQL's client package.
 * @throws PlumbError FAILED_PRECONDITION naming what to install, or with what the program said
 */
export async function runPostgresProgram(
  program: 'pg_dump' | 'psql',
  databaseUrl: string,
  args: readonly string[],
): Promise<void> {
  // A command line is seen by everybody on the machine, the environment is not.
  const url = new URL(databaseUrl);
  const password = decodeURIComponent(url.password);
  url.password = '';
  try {
    await promisify(execFile)(program, [...args, `--dbname=${url.href}`], {
      maxBuffer: 16 * 2 ** 20,
      env: { ...process.env, ...(password === '' ? {} : { PGPASSWORD: password }) },
    });
  } catch (thrown) {
    const error = thrown as NodeJS.ErrnoException & { readonly stderr?: string };
    if (error.code === 'ENOENT') {
      throw failedPrecondition(
        `${program} is not installed; install PostgreSQL's client programs (postgresql-client), of the server's version or newer`,
      );
    }
    throw failedPrecondition(
      `${program} failed: ${(error.stderr ?? '').trim().split('\n').slice(-3).join(' ')}`,
    );
  }
}
