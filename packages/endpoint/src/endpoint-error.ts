/** What can go wrong at an endpoint. */

/**
 * Kinds of failed calls.
 *
 * timeout: no whole answer in time. connection: refused, reset or unreadable. rate-limited: 429. server: 5xx, 408, 409.
 * misconfigured: 401, 403, 404, and a 400 or 422 that names a parameter of ours; no question is answered until somebody
 * changes something. rejected: any other 4xx; this question is not answered.
 */
export type EndpointFault =
  'timeout' | 'connection' | 'rate-limited' | 'server' | 'misconfigured' | 'rejected';

/** Parameters of a chat completion that not every compatible endpoint takes. */
export const requestParameters = [
  'response_format',
  'logprobs',
  'top_logprobs',
  'max_completion_tokens',
  'max_tokens',
  'temperature',
  'seed',
] as const;
export type RequestParameter = (typeof requestParameters)[number];

/** What is known of a failed call besides its fault. */
export interface EndpointErrorFields {
  readonly status?: number | undefined;
  readonly retryAfterMs?: number | undefined;
  readonly parameter?: RequestParameter | undefined;
  /** No connection came about, so that the endpoint saw nothing of the call. */
  readonly neverSent?: boolean;
  readonly cause?: unknown;
}

/** A call that gave no answer. The message holds the status and nothing of what the endpoint wrote, which may quote the key. */
export class EndpointError extends Error {
  override readonly name = 'EndpointError';
  readonly fault: EndpointFault;
  /** HTTP status, where there was one. */
  readonly status: number | undefined;
  /** How long the endpoint asks to be left alone, in milliseconds. */
  readonly retryAfterMs: number | undefined;
  /** Parameter of the request that the endpoint does not take; set for a 400 or 422 that names one. */
  readonly parameter: RequestParameter | undefined;
  /** The endpoint may have worked on the call, and bills it then. */
  readonly mayHaveWorked: boolean;
  constructor(fault: EndpointFault, message: string, fields: EndpointErrorFields = {}) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.fault = fault;
    this.status = fields.status;
    this.retryAfterMs = fields.retryAfterMs;
    this.parameter = fields.parameter;
    // 502 and 504 come from a gateway, and say nothing of what the model behind it did.
    const behindGateway = fields.status === 502 || fields.status === 504;
    this.mayHaveWorked =
      fault === 'timeout' || behindGateway || (fault === 'connection' && !fields.neverSent);
  }
}
