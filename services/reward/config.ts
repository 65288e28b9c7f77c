/** Settings of the reward service, from the environment. */

import { serviceSettings } from '@plumb/kit/config';
import { z } from 'zod';

const address = z
  .string()
  .regex(/^([a-z]+:\/\/\/?)?[^\s/]+:\d{1,5}$/, 'must be host:port or dns:///host:port');

/** Read with loadConfig; variables are PLUMB_ and the name in capitals. */
export const rewardSettings = z.object({
  ...serviceSettings,
  /** Artifact store: folder or file:// URL. */
  artifacts: z.string().describe('the folder of the artifact store, for example .plumb/artifacts'),
  /** The judge service. */
  judgeAddress: address.describe('host:port of the judge service, for example 127.0.0.1:50052'),
  /** Judge that the reward aif asks. */
  aifJudge: z.string().min(1).default('default').describe('the name of a judge, for example default'),
  /** Verdicts that aif asks for at a time. More than the judge's endpoint takes at a time only wait there. */
  aifConcurrency: z.coerce
    .number()
    .int()
    .min(1)
    .max(4096)
    .default(64)
    .describe('a whole number, for example 64'),
  /** Longest wait for one verdict, in seconds, its retries included. */
  aifDeadlineSeconds: z.coerce
    .number()
    .positive()
    .max(3600)
    .default(180)
    .describe('seconds, for example 180'),
  /** Scoring tasks of the queue that are worked on at a time. */
  bulkConcurrency: z.coerce
    .number()
    .int()
    .min(1)
    .max(4096)
    .default(128)
    .describe('a whole number, for example 128'),
});
