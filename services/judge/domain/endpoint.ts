/** The port to a vision-language model, and what can go wrong there. */

import type { RawAnswer } from './answer.ts';
import type { TokenLogProbability } from './confidence.ts';
import type { Question } from './question.ts';

/** A whole answer of an endpoint, with what it cost. */
export interface Completion extends RawAnswer {
  /** Model name as the endpoint gave it. */
  readonly model: string;
  readonly inputTokens: number;
  readonly outputTokens: number;
  /** Tokens of the answer; undefined if the endpoint gave no log-probabilities. */
  readonly tokens: readonly TokenLogProbability[] | undefined;
}

/** One OpenAI-compatible endpoint. */
export interface Endpoint {
  /** Name in the judges file. */
  readonly name: string;
  /**
   * Sends one question, once.
   *
   * @param signal Ends the call: nothing of it goes on afterwards.
   * @throws EndpointError for everything but an abort by the signal, which throws the signal's reason.
   */
  complete(question: Question, signal: AbortSignal): Promise<Completion>;
}

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
