/** Asks an endpoint until it gives a usable answer, within limits. */

import { EndpointError, retrying } from '@plumb/endpoint';
import { PlumbError, failedPrecondition, unavailable } from '@plumb/kit/errors';
import { AnswerError } from './answer.ts';
import type { Completion, Endpoint } from './endpoint.ts';
import type { EndpointDefinition } from './judge-definition.ts';
import type { Question } from './question.ts';

/** An answer that was understood, and what it took. */
export interface Asked<T> {
  readonly answer: T;
  readonly completion: Completion;
  /** Calls to the endpoint, retries included. */
  readonly calls: number;
  /** Time in the call that was answered, in milliseconds. */
  readonly endpointMs: number;
}

/** What asking needs besides the question. */
export interface Asking<T> {
  readonly endpoint: Endpoint;
  readonly retries: EndpointDefinition['retries'];
  /** Runs one call when the endpoint has room for it. */
  readonly admit: <R>(call: () => Promise<R>, signal: AbortSignal) => Promise<R>;
  /** Sets aside what a call may take; throws if the budget does not allow it. */
  readonly reserve: () => { settle(completion: Completion | undefined, error?: unknown): void };
  /** Understands an answer; throws AnswerError. */
  readonly parse: (completion: Completion) => T;
  /** Called for every failed call. */
  readonly onFault?: (error: EndpointError | AnswerError, attempt: number) => void;
}

/**
 * Asks, and asks again after a fault that asking again can help with: timeout, 429, 5xx, a broken connection, and an
 * answer that is empty, cut off, refused or of the wrong shape.
 *
 * @param signal The caller's deadline and cancellation: it ends the call in flight and every wait; no call starts after it.
 * @throws PlumbError UNAVAILABLE (JUDGE_UNAVAILABLE, retryable) if the endpoint cannot be reached or has no room,
 *   FAILED_PRECONDITION if it lets nobody in (JUDGE_MISCONFIGURED) or
 *   rejects this request (JUDGE_REQUEST_REJECTED), INTERNAL (JUDGE_ANSWER_INVALID) if no answer
 *   could be used. RESOURCE_EXHAUSTED (JUDGE_BUDGET_EXHAUSTED) before a call that the budget does not allow. The signal's reason if it was aborted.
 */
export async function ask<T>(question: Question, asking: Asking<T>, signal: AbortSignal): Promise<Asked<T>> {
  const { endpoint, retries } = asking;
  let calls = 0;
  try {
    return await retrying(
      () =>
        asking.admit(async () => {
          signal.throwIfAborted();
          const reserved = asking.reserve();
          calls += 1;
          const start = performance.now();
          let completion: Completion;
          try {
            completion = await endpoint.complete(question, signal);
          } catch (error) {
            reserved.settle(undefined, error);
            throw error;
          }
          // An answer that cannot be used is paid for like any other.
          reserved.settle(completion);
          const endpointMs = performance.now() - start;
          return { answer: asking.parse(completion), completion, calls, endpointMs };
        }, signal),
      {
        retries,
        signal,
        alsoHelps: (error) => error instanceof AnswerError,
        onFault: (error, attempt) => {
          if (error instanceof EndpointError || error instanceof AnswerError)
            asking.onFault?.(error, attempt);
        },
      },
    );
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
