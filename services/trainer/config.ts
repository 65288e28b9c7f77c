import { serviceSettings } from '@plumb/kit/config';
import { z } from 'zod';

/** Settings of the trainer, from the environment (PLUMB_*). */
export const trainerSettings = z.object({
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
  /** Where training runs: a process survives a native crash and an out-of-memory kill of the runtime. */
  engineForm: z.enum(['process', 'worker']).default('process').describe('process or worker'),
  /** Threads of the engine; unset is one for each core. A job that is resumed ends bit for bit the same only with the same number. */
  intraOpThreads: z.coerce.number().int().min(1).max(1024).optional().describe('a number of threads'),
  /** The Reward API that scores the clips of held-out probes; without it, jobs with a probe are refused. */
  rewardAddress: z.string().min(1).optional().describe('host:port of the reward service'),
  /** Longest wait for the scores of one probe, in seconds. */
  probeDeadlineSeconds: z.coerce.number().positive().max(86_400).default(600).describe('a number of seconds'),
  /** Steps between checkpoints of a job that does not say. */
  checkpointEverySteps: z.coerce
    .number()
    .int()
    .min(1)
    .default(50)
    .describe('a number of steps, for example 50'),
  /** Most memory for the decoded clips of a data set, in bytes; a larger one is refused. */
  maxDataSetBytes: z.coerce
    .number()
    .int()
    .min(1)
    .default(8 * 2 ** 30)
    .describe('a number of bytes'),
});
