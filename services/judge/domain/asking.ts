/** Asks an endpoint until it gives a usable answer, within limits. */

import { EndpointError, retrying } from '@plumb/endpoint';
import { PlumbError, failedPrecondition, unavailable } from '@plumb/kit/errors';
import { AnswerError } from './answer.ts';
import type { Completion, Endpoint } from './endpoint.ts';
import type { EndpointDefinition } from './judge-definition.ts';
import { askedAgain } from './question.ts';
import type { Question } from './question.ts';
import type { Tokens } from './token-estimate.ts';

/** An answer that was understood, and what it took. */
export interface Asked<T> {
  readonly answer: T;
  readonly completion: Completion;
  /** Calls to the endpoint, retries included. */
  readonly calls: number;
  /** What all of them took, by the endpoint's word or else by the estimate. */
  readonly tokens: Tokens;
  /** Seed of the call that was answered; undefined for a question without one. */
  readonly seed: number | undefined;
  /** Time in the call that was answered, in milliseconds. */
  readonly endpointMs: number;
}

/** What was set aside for a call. */
export interface Reserved {
  /** Ends it with the answer, or with why there is none. Gives what was booked. */
  settle(outcome: { readonly completion: Completion } | { readonly error: unknown }): Tokens;
}

/** What asking needs besides the question. */
export interface Asking<T> {
  readonly endpoint: Endpoint;
  readonly retries: EndpointDefinition['retries'];
  /** Runs one call when the endpoint has room for it. */
  readonly admit: <R>(call: () => Promise<R>, signal: AbortSignal) => Promise<R>;
  /** Sets aside what a call may take; throws if the budget does not allow it. */
  readonly reserve: () => Reserved;
  /** When the caller stops waiting, where that is known. */
  readonly deadline?: Date | undefined;
  /** Understands an answer; throws AnswerError. */
  readonly parse: (completion: Completion) => T;
  /** Called for every failed call. */
  readonly onFault?: (error: EndpointError | AnswerError, attempt: number) => void;
}

// An answer that cannot be used comes again and again where the model means it: a rubric that it refuses, a shape that it
// cannot write. At 2% a call for each kind, as in the tests, four alike are not seen in a million clips by chance.
const mostAlike = 4;

/**
 * Asks, and asks again after a fault that asking again can help with: timeout, 429, 5xx, a broken connection, and an
 * answer that is empty, cut off, refused or of the wrong shape. After such an answer the seed is another one, and four
 * alike are enough.
 *
 * @param signal The caller's deadline and cancellation: it ends the call in flight and every wait; no call starts after it.
 * @throws PlumbError UNAVAILABLE (JUDGE_UNAVAILABLE, retryable) if the endpoint cannot be reached or has no room, or asks to
 *   be left alone for longer than the caller waits;
 *   FAILED_PRECONDITION if it lets nobody in or does not take a parameter that the judge sends (JUDGE_MISCONFIGURED), or
 *   rejects this request (JUDGE_REQUEST_REJECTED); INTERNAL (JUDGE_ANSWER_INVALID) if no answer
 *   could be used. RESOURCE_EXHAUSTED (JUDGE_BUDGET_EXHAUSTED) before a call that the budget does not allow. The signal's reason if it was aborted.
 */
export async function ask<T>(question: Question, asking: Asking<T>, signal: AbortSignal): Promise<Asked<T>> {
  const { endpoint, retries, deadline } = asking;
  const unusable = new Map<string, number>();
  let calls = 0;
  let tokens: Tokens = { input: 0, output: 0 };
  let put = question;

  const call = async (): Promise<Asked<T>> => {
    signal.throwIfAborted();
    const reserved = asking.reserve();
    const settle: Reserved['settle'] = (outcome) => {
      const { input, output } = reserved.settle(outcome);
      return (tokens = { input: tokens.input + input, output: tokens.output + output });
    };
    calls += 1;
    const start = performance.now();
    let completion: Completion;
    try {
      completion = await endpoint.complete(put, signal);
    } catch (error) {
      settle({ error });
      throw error;
    }
    // An answer that cannot be used is paid for like any other.
    settle({ completion });
    const endpointMs = performance.now() - start;
    try {
      return { answer: asking.parse(completion), completion, calls, tokens, seed: put.seed, endpointMs };
    } catch (error) {
      if (error instanceof AnswerError) {
        unusable.set(error.fault, (unusable.get(error.fault) ?? 0) + 1);
        put = askedAgain(put);
      }
      throw error;
    }
  };

  try {
    return await retrying(() => asking.admit(call, signal), {
      retries,
      signal,
      deadline,
      alsoHelps: (error) => error instanceof AnswerError && (unusable.get(error.fault) ?? 0) < mostAlike,
      onFault: (error, attempt) => {
        if (error instanceof EndpointError || error instanceof AnswerError) asking.onFault?.(error, attempt);
      },
    });
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw toPlumbError(error, endpoint.name, calls);
  }
}

function toPlumbError(error: unknown, endpoint: string, calls: number): unknown {
  const metadata = { endpoint, calls: String(calls) };
  if (error instanceof AnswerError) {
    return new PlumbError({
      code: 'INTERNAL',
      reason: 'JUDGE_ANSWER_INVALID',
      message: `endpoint '${endpoint}' gave no usable answer in ${calls} calls; the last one: ${error.message}`,
      metadata: { ...metadata, fault: error.fault },
      cause: error,
    });
  }
  if (error instanceof EndpointError) {
    const options = {
      metadata: {
        ...metadata,
        fault: error.fault,
        ...(error.status === undefined ? {} : { status: String(error.status) }),
      },
      cause: error,
    };
    if (error.parameter !== undefined) {
      return failedPrecondition(
        `endpoint '${endpoint}' answers no question of this judge (${error.message}); ${parameterFix[error.parameter]}`,
        { ...options, reason: 'JUDGE_MISCONFIGURED' },
      );
    }
    if (error.fault === 'misconfigured') {
      return failedPrecondition(
        `endpoint '${endpoint}' lets nobody in (${error.message}); check the key's variable, the model and the base URL in the judges file`,
        { ...options, reason: 'JUDGE_MISCONFIGURED' },
      );
    }
    if (error.fault === 'rejected') {
      return failedPrecondition(
        `endpoint '${endpoint}' does not judge this clip and prompt (${error.message})`,
        {
          ...options,
          reason: 'JUDGE_REQUEST_REJECTED',
        },
      );
    }
    return unavailable(
      `endpoint '${endpoint}' gave no answer in ${calls} calls; the last one: ${error.message}`,
      {
        ...options,
        reason: 'JUDGE_UNAVAILABLE',
        ...(error.retryAfterMs === undefined ? {} : { retryAfterMs: error.retryAfterMs }),
      },
    );
  }
  return error;
}

const parameterFix: Readonly<Record<NonNullable<EndpointError['parameter']>, string>> = {
  response_format:
    "set the judge's structuredOutput to json-object or none in the judges file; the parser is as strict with each",
  logprobs: "set the judge's sampling.logProbabilities to false in the judges file",
  top_logprobs: "set the judge's sampling.logProbabilities to false in the judges file",
  max_completion_tokens: "set the judge's sampling.tokenLimitParameter to max_tokens in the judges file",
  max_tokens: "set the judge's sampling.tokenLimitParameter to max_completion_tokens in the judges file",
  temperature: "leave the judge's sampling.temperature out of the judges file",
  seed: "leave the judge's sampling.seed out of the judges file",
};
