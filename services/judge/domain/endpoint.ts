/** The port to a vision-language model. */

import type { RawAnswer } from './answer.ts';
import type { TokenLogProbability } from './confidence.ts';
import type { Question } from './question.ts';

/** A whole answer of an endpoint, with what it cost. */
export interface Completion extends RawAnswer {
  /** Model name as the endpoint gave it. */
  readonly model: string;
  /** What the endpoint says that the call took; undefined if it does not say. */
  readonly usage: { readonly inputTokens: number; readonly outputTokens: number } | undefined;
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
