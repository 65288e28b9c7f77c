/** An OpenAI-compatible endpoint as a file configures it. */

import { z } from 'zod';

const variable = z.string().regex(/^[A-Z_][A-Z0-9_]*$/, 'must be the name of an environment variable');
const milliseconds = z.int().min(1);

/** Where an endpoint is, and what it is spared. */
export const endpointSchema = z.strictObject({
  /** Base URL of an OpenAI-compatible API, with its /v1. May hold ${VARIABLE} or ${VARIABLE:-default}. */
  baseUrl: z.url({ protocol: /^https?$/ }),
  /** Environment variable that holds the API key. The key itself never stands in a file. Absent: no key is sent. */
  apiKeyVariable: variable.optional(),
  /** Calls in flight at a time, over all that share this endpoint. */
  concurrency: z.int().min(1).max(10_000).default(32),
  /** Requests that may wait besides; one more gets RESOURCE_EXHAUSTED. 0 lets none wait. */
  queue: z.int().min(0).max(1_000_000).default(2048),
  /** Longest time of one call, from sending it to the last byte of its answer, in milliseconds. */
  timeoutMs: milliseconds.default(60_000),
  retries: z
    .strictObject({
      /** Calls after the first one. Requests are lost with probability faultRate ** (limit + 1). */
      limit: z.int().min(0).max(100).default(7),
      /** Wait before the first retry, in milliseconds; it doubles from retry to retry and gets up to as much again at random. */
      firstDelayMs: z.int().min(0).default(250),
      /** Longest wait of our own, in milliseconds. One that the endpoint asks for (Retry-After) is kept, however long it is. */
      longestDelayMs: milliseconds.default(20_000),
    })
    .prefault({}),
  /** Most calls in any minute. From 600 on they are spread evenly over its seconds. Absent: no limit. */
  requestsPerMinute: z.int().min(1).optional(),
  /** Most input and output tokens in any minute, by the estimate made before each call. Absent: no limit. */
  tokensPerMinute: z.int().min(1).optional(),
  /** When an endpoint that seems to be down is left alone. */
  breaker: z
    .strictObject({
      /** Calls that must fail in a row: timeouts, broken connections, 5xx, 401, 403, 404. */
      failures: z.int().min(1).default(25),
      /** Rest before one call tries the endpoint again, in milliseconds; it grows as long as the tries fail. */
      firstRestMs: milliseconds.default(2000),
      longestRestMs: milliseconds.default(60_000),
    })
    .prefault({}),
});

export type EndpointSettings = z.output<typeof endpointSchema>;
