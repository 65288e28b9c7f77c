/** What can go wrong at an endpoint. */

/**
 * Kinds of failed calls.
 *
 * timeout: no whole answer in time. connection: refused, reset or unreadable. rate-limited: 429. server: 5xx, 408, 409.
 * misconfigured: 401, 403, 404; no question is answered until somebody changes something. rejected: any other 4xx; this
 * question is not answered.
 */
export type EndpointFault =
  'timeout' | 'connection' | 'rate-limited' | 'server' | 'misconfigured' | 'rejected';

/** A call that gave no answer. The message holds the status and nothing of what the endpoint wrote, which may quote the key. */
export class EndpointError extends Error {
  override readonly name = 'EndpointError';
  readonly fault: EndpointFault;
  /** HTTP status, where there was one. */
  readonly status: number | undefined;
  /** How long the endpoint asks to be left alone, in milliseconds. */
  readonly retryAfterMs: number | undefined;
  constructor(
    fault: EndpointFault,
    message: string,
    fields: { status?: number | undefined; retryAfterMs?: number | undefined; cause?: unknown } = {},
  ) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.fault = fault;
    this.status = fields.status;
    this.retryAfterMs = fields.retryAfterMs;
  }
}
