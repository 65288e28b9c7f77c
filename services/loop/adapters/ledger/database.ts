import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { PGlite } from '@electric-sql/pglite';
import { invalidArgument } from '@plumb/kit/errors';
import { Kysely, PGliteDialect, PostgresDialect } from 'kysely';
import { Migrator } from 'kysely/migration';
import pg from 'pg';
import { ledgerError } from './database-error.ts';
import * as ledgerMigration from './migrations/0001-ledger.ts';
import * as countsMigration from './migrations/0002-counts.ts';
import * as labelSessionsMigration from './migrations/0003-label-sessions.ts';
import * as cheaperChecksMigration from './migrations/0004-cheaper-checks.ts';
import * as latentsMigration from './migrations/0005-latents.ts';
import * as rubricHashMigration from './migrations/0006-rubric-hash.ts';
import * as historyMigration from './migrations/0007-history.ts';
import { recordQuery } from './query-telemetry.ts';
import type { Tables } from './tables.ts';

/** Every migration, by a name that sorts in the order in which they run. */
export const migrations = {
  '0001-ledger': ledgerMigration,
  '0002-counts': countsMigration,
  '0003-label-sessions': labelSessionsMigration,
  '0004-cheaper-checks': cheaperChecksMigration,
  '0005-latents': latentsMigration,
  '0006-rubric-hash': rubricHashMigration,
  '0007-history': historyMigration,
};

/** Connections to PostgreSQL; the loop's writes are short and few run at a time. */
const poolSize = 8;

/**
 * Opens the ledger and brings its schema up to date.
 *
 * `url` is `pglite:<folder>` (made when it is not there; one process at a time), `pglite:memory` for tests, or
 * `postgres://...`. Throws INVALID_ARGUMENT for any other URL, UNAVAILABLE when the database cannot be reached, and
 * FAILED_PRECONDITION when the database holds migrations that this version does not know.
 */
export async function openDatabase(url: string): Promise<Kysely<Tables>> {
  const database = new Kysely<Tables>({ dialect: await dialectOf(url), log: recordQuery });
  try {
    await migrate(database);
  } catch (error) {
    await database.destroy();
    throw ledgerError(error);
  }
  return database;
}

async function dialectOf(url: string): Promise<PGliteDialect | PostgresDialect> {
  if (/^postgres(ql)?:\/\//.test(url)) {
    const pool = new pg.Pool({ connectionString: url, max: poolSize, connectionTimeoutMillis: 10_000 });
    // An idle connection that breaks is replaced by the pool; the query that meets a broken one throws by itself.
    pool.on('error', () => undefined);
    // One that breaks between two queries of a transaction says so to its own listeners only, and ends the process where
    // there is none; the next query of the transaction throws by itself.
    pool.on('connect', (client) => {
      client.on('error', () => undefined);
    });
    return new PostgresDialect({ pool });
  }
  if (!url.startsWith('pglite:') || url === 'pglite:') {
    throw invalidArgument('database_url', 'give pglite:<folder> or postgres://user@host/database', {
      reason: 'CONFIGURATION_INVALID',
    });
  }
  const folder = url.slice('pglite:'.length);
  if (folder === 'memory') return new PGliteDialect({ pglite: await PGlite.create() });
  try {
    await mkdir(path.dirname(path.resolve(folder)), { recursive: true });
    return new PGliteDialect({ pglite: await PGlite.create(folder) });
  } catch (error) {
    throw ledgerError(error);
  }
}

// Unordered migrations stay forbidden (Kysely's default): a name that sorts before one that has run is an error.
async function migrate(database: Kysely<Tables>): Promise<void> {
  const provider = { getMigrations: () => Promise.resolve(migrations) };
  const { error } = await new Migrator({ db: database, provider }).migrateToLatest();
  if (error !== undefined) throw error;
}
