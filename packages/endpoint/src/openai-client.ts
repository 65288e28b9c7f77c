/** The client of OpenAI-compatible endpoints, and what it throws in our words. */

import OpenAI, { APIConnectionError, APIError } from 'openai';
import { EndpointError, requestParameters } from './endpoint-error.ts';
import type { RequestParameter } from './endpoint-error.ts';
import type { EndpointSettings } from './endpoint-settings.ts';

/**
 * A client that does nothing on its own: no retries, no log, nothing from the environment.
 * @param apiKey Key to send; undefined sends no Authorization header. It is held in memory only.
 */
export function openAiClient(
  { baseUrl, timeoutMs }: Pick<EndpointSettings, 'baseUrl' | 'timeoutMs'>,
  apiKey: string | undefined,
): OpenAI {
  return new OpenAI({
    baseURL: baseUrl,
    // The client wants a key; without one the header is taken away.
    apiKey: apiKey ?? 'none',
    ...(apiKey === undefined ? { defaultHeaders: { authorization: null } } : {}),
    // Not taken from the environment: an endpoint is what its file says.
    organization: null,
    project: null,
    // Retries, time and logging are ours: its own log would hold the answers' texts.
    maxRetries: 0,
    timeout: timeoutMs,
    logLevel: 'off',
  });
}

/**
 * Everything that a call can throw as one EndpointError. What the endpoint wrote stays out of the message and out of the
 * cause: vendors quote parts of the key in a 401, and captions elsewhere.
 */
export function toEndpointError(error: unknown, timedOut: boolean, timeoutMs: number): EndpointError {
  if (error instanceof EndpointError) return error;
  if (timedOut) return new EndpointError('timeout', `no whole answer within ${timeoutMs} ms`);
  if (error instanceof APIConnectionError) {
    const code = systemCode(error);
    return new EndpointError('connection', `the connection failed${inBrackets(code)}`, {
      neverSent: code !== undefined && notConnected.has(code),
    });
  }
  if (error instanceof APIError && typeof error.status === 'number') {
    const { status } = error;
    const retryAfterMs = retryAfter(error.headers, Date.now());
    if (status === 429)
      return new EndpointError('rate-limited', 'HTTP 429, too many requests', { status, retryAfterMs });
    if (status === 408 || status === 409 || status >= 500) {
      return new EndpointError('server', `HTTP ${status}`, { status, retryAfterMs });
    }
    const parameter = status === 400 || status === 422 ? refusedParameter(error) : undefined;
    if (parameter !== undefined) {
      return new EndpointError(
        'misconfigured',
        `HTTP ${status}, it does not take ${parameter} as it is sent`,
        {
          status,
          parameter,
        },
      );
    }
    const kind = status === 401 || status === 403 || status === 404 ? 'misconfigured' : 'rejected';
    return new EndpointError(kind, `HTTP ${status}${vendorCode(error)}`, { status });
  }
  // A body that breaks off, or is no JSON: fetch and JSON.parse throw TypeError and SyntaxError.
  return new EndpointError(
    'connection',
    `the answer broke off or could not be read${inBrackets(systemCode(error))}`,
  );
}

// Vendors' codes are fixed words (model_not_found); anything that does not look like one is left out.
function vendorCode(error: APIError): string {
  return typeof error.code === 'string' && /^[a-z_]{1,40}$/.test(error.code) ? `, ${error.code}` : '';
}

// Codes of Node and of its fetch for a connection that never came about.
const notConnected: ReadonlySet<string> = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
]);

// Words that no caption has by chance. A vendor's message may quote the caption, so the others count where the vendor names
// the parameter in its own field only.
const unmistakable: Readonly<Record<string, RequestParameter>> = {
  response_format: 'response_format',
  json_schema: 'response_format',
  top_logprobs: 'top_logprobs',
  logprobs: 'logprobs',
  max_completion_tokens: 'max_completion_tokens',
  max_tokens: 'max_tokens',
};

/** The parameter of ours that a 400 or 422 is about. Nothing of the vendor's own words is passed on. */
function refusedParameter(error: APIError): RequestParameter | undefined {
  const field = typeof error.param === 'string' ? error.param.split(/[.[]/)[0] : undefined;
  const named = requestParameters.find((name) => name === field);
  if (named !== undefined) return named;
  const words = new Set(error.message.toLowerCase().match(/[a-z_]+/g));
  return Object.entries(unmistakable).find(([word]) => words.has(word))?.[1];
}

function inBrackets(code: string | undefined): string {
  return code === undefined ? '' : ` (${code})`;
}

function systemCode(error: unknown): string | undefined {
  for (
    let current = error, depth = 0;
    current instanceof Error && depth < 4;
    current = current.cause, depth += 1
  ) {
    const code = (current as NodeJS.ErrnoException).code;
    if (typeof code === 'string' && /^[A-Z_]{1,40}$/.test(code)) return code;
  }
  return undefined;
}

/**
 * How long an endpoint asks to wait, in milliseconds: retry-after-ms, or Retry-After in seconds or as a date (RFC 9110,
 * section 10.2.3). Undefined if it does not say, or says nonsense.
 *
 * @param now Milliseconds since the epoch.
 */
export function retryAfter(headers: Headers | undefined, now: number): number | undefined {
  const exact = Number(headers?.get('retry-after-ms') ?? Number.NaN);
  if (Number.isFinite(exact) && exact >= 0) return exact;
  const text = headers?.get('retry-after');
  if (text === null || text === undefined || text.trim() === '') return undefined;
  const seconds = Number(text);
  if (Number.isFinite(seconds)) return seconds >= 0 ? seconds * 1000 : undefined;
  const date = Date.parse(text);
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}
