/** Settings of the judge service, from the environment. */

import { serviceSettings } from '@plumb/kit/config';
import { z } from 'zod';

/** Read with loadConfig; variables are PLUMB_ and the name in capitals. */
export const judgeSettings = z.object({
  ...serviceSettings,
  /** Artifact store: folder, file:// URL or s3://bucket/prefix. */
  artifacts: z
    .string()
    .describe('the artifact store: a folder, for example .plumb/artifacts, or s3://bucket/prefix'),
  /** Judges file; see judges.toybox.yaml. */
  judgesFile: z.string().describe('the path of a judges file, for example services/judge/judges.toybox.yaml'),
  /** Whoever reads traces then reads prompts and verdicts. Pictures are never in them. */
  traceContent: z
    .enum(['off', 'prompt', 'all'])
    .default('off')
    .describe('what spans show of calls to endpoints: off, prompt (the question), or all (the answer too)'),
});
