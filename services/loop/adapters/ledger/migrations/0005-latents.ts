import { sql } from 'kysely';
import type { Kysely } from 'kysely';

/* What a latent pipeline's decoder made a clip of: training takes it in the clip's place. */
export async function up(db: Kysely<never>): Promise<void> {
  await sql.raw('alter table samples add column latents text').execute(db);
}
