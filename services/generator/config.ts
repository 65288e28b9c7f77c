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
  /** Where pipelines are unpacked; kept between starts. A temporary folder unless given. */
  pipelineCache: z
    .string()
    .min(1)
    .optional()
    .describe('a folder with room for the pipelines that are served'),
  /** Where remote models are asked: addresses, variables of keys, limits and what a run may spend. */
  remoteEndpoints: z.string().min(1).optional().describe('a YAML file; docs/models.md has an example'),
  /** Whether the two passes of guidance share a call of a pipeline's denoiser; split takes half the memory. */
  guidancePasses: z.enum(['batched', 'split']).default('batched').describe('batched or split'),
  /** What the weights of one pipeline may take together on one device; components take turns where they do not fit. */
  memoryBudgetMib: z.coerce.number().int().min(1).optional().describe('MiB'),
  /** Side of the tiles that a pipeline's latents are decoded in, in latents; one piece unless given. */
  tile: z.coerce.number().int().min(2).max(4096).optional().describe('a number of latents, 2 to 4096'),
  /** Where the components of pipelines run. */
  textDevice: z.enum(['cpu', 'cuda']).default('cpu').describe('cpu or cuda'),
  denoiserDevice: z.enum(['cpu', 'cuda']).default('cpu').describe('cpu or cuda'),
  decoderDevice: z.enum(['cpu', 'cuda']).default('cpu').describe('cpu or cuda'),
  /** Previews for people: an animated picture, or H.264, which needs ffmpeg. */
  previewFormat: z.enum(['webp', 'mp4']).default('webp').describe('webp or mp4'),
  /** Enlargement of the previews for people. */
  previewScale: z.coerce.number().int().min(1).max(32).default(4).describe('a whole number, 1 to 32'),
});
