import { z } from 'zod';

/** Names of what a backup's folder holds, besides the folder of artifacts. */
export const backupFiles = {
  manifest: 'backup.json',
  ledger: 'ledger.sql',
  buckets: 'buckets.json',
} as const;
export const artifactFolder = 'artifacts';

/** Written last: a folder without it is no backup. */
export const backupManifestSchema = z.strictObject({
  kind: z.literal('plumb.backup'),
  /** RFC 3339. */
  madeAt: z.string(),
  /** Hashes of the files, so that a damaged backup is not restored. */
  sha256: z.strictObject({ ledger: z.string(), buckets: z.string() }),
  /** URI and hash of every artifact, in order. */
  artifacts: z.array(z.strictObject({ uri: z.string(), sha256: z.string() })),
});

export const bucketsSchema = z.array(
  z.strictObject({
    name: z.string(),
    history: z.number(),
    maxBytes: z.number(),
    ttlMs: z.number(),
    /** Values in base64. */
    entries: z.array(z.strictObject({ key: z.string(), value: z.base64() })),
  }),
);
