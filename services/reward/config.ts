/** Settings of the reward service, from the environment. */

import { fileURLToPath } from 'node:url';
import { serviceSettings } from '@plumb/kit/config';
import { z } from 'zod';

const address = z
  .string()
  .regex(/^([a-z]+:\/\/\/?)?[^\s/]+:\d{1,5}$/, 'must be host:port or dns:///host:port');

const wholeNumber = (usual: number, most: number) =>
  z.coerce.number().int().min(1).max(most).default(usual).describe(`a whole number, for example ${usual}`);

/** Read with loadConfig; variables are PLUMB_ and the name in capitals. */
export const rewardSettings = z.object({
  ...serviceSettings,
  /** Artifact store: folder, file:// URL or s3://bucket/prefix. */
  artifacts: z
    .string()
    .describe('the artifact store: a folder, for example .plumb/artifacts, or s3://bucket/prefix'),
  /** Looked into before the artifact store, and never written. */
  modelsFolder: z
    .string()
    .min(1)
    .optional()
    .describe('a folder that packages/media/bin/preload.ts has filled'),
  /** The judge service. */
  judgeAddress: address.describe('host:port of the judge service, for example 127.0.0.1:50052'),
  /** Folder of reward definitions; its folder candidates holds those that score in the shadow. */
  rewards: z
    .string()
    .default(fileURLToPath(new URL('../../rewards', import.meta.url)))
    .describe('a folder of reward definitions, for example /etc/plumb/rewards'),
  /** Time between two looks at that folder, in seconds. */
  rewardsEverySeconds: z.coerce.number().positive().max(3600).default(2).describe('seconds, for example 2'),
  /** Where clips by URI may come from besides the artifact store, separated by commas. */
  clipPrefixes: z
    .string()
    .default('')
    .transform((text) => text.split(',').filter((prefix) => prefix !== ''))
    .describe('prefixes separated by commas, for example file:///data/clips/,https://clips.example/public/'),
  /** Most pixels of a clip: frames x height x width. */
  maxClipPixels: wholeNumber(2 ** 26, 2 ** 28),
  /** Most frames of a clip. */
  maxFrames: wholeNumber(1024, 16_384),
  /** Bytes of clips inside of messages that are held at a time; more get RESOURCE_EXHAUSTED. */
  maxInlineBytesHeld: wholeNumber(2 ** 29, 2 ** 40),
  /** Threads of each reward's model; one for each core unless given. */
  intraOpThreads: z.coerce
    .number()
    .int()
    .min(1)
    .max(1024)
    .optional()
    .describe('a whole number, for example 4'),
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
