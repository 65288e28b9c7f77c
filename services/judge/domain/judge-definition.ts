/** Judges by name: which endpoint and model is asked, with which rubric, frames and settings. */

import { z } from 'zod';
import { contentHash } from '@plumb/kit/content-hash';
import { judgeModes } from './rubric.ts';
import type { Rubric } from './rubric.ts';

const variable = z.string().regex(/^[A-Z_][A-Z0-9_]*$/, 'must be the name of an environment variable');
const milliseconds = z.int().min(1);

const endpointSchema = z.strictObject({
  /** Base URL of an OpenAI-compatible API, with its /v1. May hold ${VARIABLE} or ${VARIABLE:-default}. */
  baseUrl: z.url({ protocol: /^https?$/ }),
  /** Environment variable that holds the API key. The key itself never stands in a file. Absent: no key is sent. */
  apiKeyVariable: variable.optional(),
  /** Calls in flight at a time, over all judges of this endpoint. */
  concurrency: z.int().min(1).max(10_000).default(32),
  /** Verdicts that may wait besides; one more gets RESOURCE_EXHAUSTED. 0 lets none wait. */
  queue: z.int().min(0).max(1_000_000).default(2048),
  /** Longest time of one call, from sending it to the last byte of its answer, in milliseconds. */
  timeoutMs: milliseconds.default(60_000),
  retries: z
    .strictObject({
      /** Calls after the first one. Verdicts are lost with probability faultRate ** (limit + 1). */
      limit: z.int().min(0).max(100).default(7),
      /** Wait before the first retry, in milliseconds; it doubles from retry to retry and gets up to as much again at random. */
      firstDelayMs: z.int().min(0).default(250),
      /** Longest wait, in milliseconds. An endpoint that asks for more (Retry-After) is left alone: the caller gets UNAVAILABLE. */
      longestDelayMs: milliseconds.default(20_000),
    })
    .prefault({}),
});

const judgeSchema = z.strictObject({
  /** Changed by people whenever verdicts before and after should not be mixed, for example when the endpoint changes what a model name means. */
  version: z.string().min(1),
  /** Name of an endpoint of this file. */
  endpoint: z.string(),
  /** Model name as the endpoint knows it. */
  model: z.string().min(1),
  mode: z.enum(judgeModes),
  /** Rubric file, relative to this file. */
  rubric: z.string().min(1),
  /** Training signals may not use a held-out judge. */
  heldOut: z.boolean().default(false),
  /** Which frames are sent. A clip with fewer frames sends all of them. */
  frames: z.strictObject({
    count: z.int().min(1).max(256),
    sampling: z.literal('uniform').default('uniform'),
  }),
  /** How a frame is sent. A scale of 1 is native resolution; pixels are repeated, never interpolated. */
  image: z
    .strictObject({ scale: z.int().min(1).max(32).default(1), format: z.literal('png').default('png') })
    .prefault({}),
  /** How the endpoint makes its answer keep the shape. none relies on the rubric's words and the strict parser alone. */
  structuredOutput: z.enum(['json-schema', 'json-object', 'none']).default('json-schema'),
  sampling: z
    .strictObject({
      /** 0 is the likeliest answer. Absent: the endpoint's default, for models that refuse the parameter. */
      temperature: z.number().min(0).max(2).optional(),
      seed: z.int().optional(),
      maxOutputTokens: z.int().min(16).default(400),
      /** Name of that limit in the request: max_tokens for servers that do not know the newer one, such as Ollama. */
      tokenLimitParameter: z.enum(['max_completion_tokens', 'max_tokens']).default('max_completion_tokens'),
      /** Ask for token log-probabilities, from which P(accept) is computed (mode binary). */
      logProbabilities: z.boolean().default(false),
    })
    .prefault({}),
});

/** The judges file. Unknown keys are errors, so that a misspelt setting (or an API key) does not pass unseen. */
export const judgesFileSchema = z
  .strictObject({
    endpoints: z.record(z.string().regex(/^[a-z][a-z0-9-]*$/), endpointSchema),
    judges: z.record(z.string().regex(/^[a-z][a-z0-9-]*$/), judgeSchema),
  })
  .superRefine((file, context) => {
    if (Object.keys(file.judges).length === 0) {
      context.addIssue({ code: 'custom', path: ['judges'], message: 'name at least one judge' });
    }
    for (const [name, judge] of Object.entries(file.judges)) {
      if (file.endpoints[judge.endpoint] === undefined) {
        const known = Object.keys(file.endpoints).join(', ');
        context.addIssue({
          code: 'custom',
          path: ['judges', name, 'endpoint'],
          message: `no endpoint is named '${judge.endpoint}'; known are: ${known}`,
        });
      }
      if (judge.sampling.logProbabilities && judge.mode !== 'binary') {
        context.addIssue({
          code: 'custom',
          path: ['judges', name, 'sampling', 'logProbabilities'],
          message: 'only a binary judge has a P(accept); leave it out',
        });
      }
    }
  });

export type JudgesFile = z.output<typeof judgesFileSchema>;
export type EndpointDefinition = JudgesFile['endpoints'][string];
export type JudgeDefinition = JudgesFile['judges'][string];

/** A judge that is ready to be asked. */
export interface Judge {
  readonly name: string;
  readonly definition: JudgeDefinition;
  readonly rubric: Rubric;
  /** SHA-256 over everything that a verdict depends on besides the clip and the prompt. */
  readonly hash: string;
}

/** A judge with its hash. */
export function defineJudge(name: string, definition: JudgeDefinition, rubric: Rubric): Judge {
  // The endpoint's address is left out: the same model behind another port is the same judge. Where the same name
  // means another model, `version` is there to be changed. The file name of the rubric is left out for its content.
  const { version, model, mode, frames, image, structuredOutput, sampling } = definition;
  const judged = { version, model, mode, frames, image, structuredOutput, sampling, rubric: rubric.hash };
  return { name, definition, rubric, hash: contentHash(judged) };
}
