import { sql } from 'kysely';
import type { Kysely } from 'kysely';

/* Which rubric a judge's score follows; empty for other rewards, and for scores from before. */
export async function up(db: Kysely<never>): Promise<void> {
  await sql.raw("alter table scores add column rubric_hash text not null default ''").execute(db);
}
