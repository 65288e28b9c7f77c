import { serviceSettings } from '@plumb/kit/config';
import { z } from 'zod';

/** Settings of the generator, from the environment (PLUMB_*). */
export const generatorSettings = z.object({
  ...serviceSettings,
  artifacts: z
    .string()
    .min(1)
    .describe('the artifact store: a folder, for example .plumb/artifacts, or s3://bucket/prefix'),
  /** Looked into before the artifact store, and never written. */
  modelsFolder: z
    .string()
    .min(1)
    .optional()
    .describe('a folder that packages/media/bin/preload.ts has filled'),
  /** Clips that share a call of the denoiser. More is faster up to the cores' limit and takes more memory. */
  batchSize: z.coerce.number().int().min(1).max(256).default(16).describe('a number of clips, 1 to 256'),
  /** Batches under way; the second keeps the engine busy while the first one's noise and clips are worked on. */
  batchesUnderWay: z.coerce.number().int().min(1).max(4).default(2).describe('1 to 4'),
  /** How long a batch that is not full waits for more, in milliseconds. */
  batchWaitMs: z.coerce.number().int().min(0).max(10_000).default(20).describe('milliseconds, 0 to 10000'),
  /** How long the broker waits for a sign of life before it gives a task to another generator, in milliseconds. */
  ackWaitMs: z.coerce.number().int().min(1000).default(10_000).describe('milliseconds, at least 1000'),
  /** Models that are kept loaded, each with an engine of its own. */
  maxModels: z.coerce.number().int().min(1).max(64).default(2).describe('a number of models, 1 to 64'),
  /** Where sampling runs: a process survives a native crash of the runtime, a worker thread has cheaper calls. */
  engineForm: z.enum(['process', 'worker']).default('process').describe('process or worker'),
  /** Threads of an engine; unset is one for each core. */
  intraOpThreads: z.coerce.number().int().min(1).max(1024).optional().describe('a number of threads'),
  /** Enlargement of the previews for people. */
  previewScale: z.coerce.number().int().min(1).max(32).default(4).describe('a whole number, 1 to 32'),
});
