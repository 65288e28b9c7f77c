import { sql } from 'kysely';
import type { Kysely } from 'kysely';

/*
 * PostgreSQL checks every condition of a row at every update, and a sample is updated four times: regular expressions over
 * columns that never change were an eighth of what the embedded database costs. Lengths and a bound refuse the same slips.
 */
const statements = [
  `alter table samples
    drop constraint samples_id_check,
    drop constraint samples_seed_check,
    drop constraint samples_model_sha256_check,
    drop constraint samples_clip_key_check,
    add constraint samples_id_check check (length(id) = 32),
    add constraint samples_seed_check
      check (length(seed) <= 20 and seed collate "C" >= '0' and seed collate "C" < ':'),
    add constraint samples_model_sha256_check check (length(model_sha256) = 64),
    add constraint samples_clip_key_check check (length(clip_key) = 64)`,
];

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}
