/** How many calls an endpoint gets, how fast, and whether it gets any at the moment. */

import { setTimeout as delay } from 'node:timers/promises';
import {
  BrokenCircuitError,
  CircuitState,
  ConsecutiveBreaker,
  ExponentialBackoff,
  circuitBreaker,
  handleWhen,
} from 'cockatiel';
import PQueue from 'p-queue';
import { resourceExhausted, unavailable } from '@plumb/kit/errors';
import type { ErrorReason, PlumbError } from '@plumb/kit/errors';
import { EndpointError } from './endpoint-error.ts';
import type { EndpointSettings } from './endpoint-settings.ts';
import { createRateWindow } from './rate-window.ts';

/** Health of an endpoint: down while its circuit breaker is open, recovering while one call tries it. */
export type EndpointState = 'serving' | 'down' | 'recovering';

/** What an endpoint is doing. */
export interface Occupancy {
  readonly state: EndpointState;
  readonly callsInFlight: number;
  /** Calls allowed at a time at the moment. */
  readonly concurrency: number;
  /** Pieces of work that are running or waiting. */
  readonly admitted: number;
  /** How long the endpoint has asked to be left alone yet (Retry-After), in milliseconds; 0 if it has not. */
  readonly pauseMs: number;
}

/** Limits of one endpoint. */
export interface Admission {
  /**
   * Runs one piece of work, from its first call to its last retry.
   *
   * @throws PlumbError RESOURCE_EXHAUSTED at once, with a time to retry, if as many as allowed are running and waiting.
   */
  admit<R>(work: () => Promise<R>): Promise<R>;
  /**
   * Runs one call when there is a place for it, rates allow it and the endpoint has not asked to be left alone. An abort
   * takes it out of the queue.
   *
   * @param tokens Estimate of the tokens that the call takes.
   * @param deadline When the caller stops waiting, where that is known.
   * @throws PlumbError UNAVAILABLE without a call while the endpoint is down, and where it has asked to be left alone for
   *   longer than the caller waits.
   */
  call<R>(work: () => Promise<R>, tokens: number, signal: AbortSignal, deadline?: Date): Promise<R>;
  /** Tells how many more tokens a call took than were estimated. */
  tookMore(tokens: number): void;
  occupancy(): Occupancy;
}

export type AdmissionLimits = Pick<
  EndpointSettings,
  'concurrency' | 'queue' | 'requestsPerMinute' | 'tokensPerMinute' | 'breaker'
>;

// What an endpoint that is down looks like; other faults are about one call.
const downFaults: ReadonlySet<string> = new Set(['timeout', 'connection', 'server', 'misconfigured']);
// A 429 takes away this share of the places; a round of answers gives back this share of the most there may be.
const shrink = 0.2;
const growth = 0.05;
// A timer that is set for longer ends at once.
const longestTimerMs = 2 ** 31 - 1;

/**
 * Limits for one endpoint. Concurrency begins at its limit, falls by a fifth with each 429 (once for all calls that were
 * in flight together) and rises by a twentieth of its limit for each round of answers, as TCP's congestion window does (RFC 5681: additive
 * increase, multiplicative decrease).
 *
 * @param reason Reason of the error while the endpoint is down.
 * @param changed Told when the endpoint goes down and comes back.
 */
export function createAdmission(
  name: string,
  limits: AdmissionLimits,
  reason: ErrorReason,
  changed: (state: EndpointState) => void = () => {},
  now: () => number = () => performance.now(),
): Admission {
  const calls = new PQueue({ concurrency: limits.concurrency });
  const most = limits.concurrency + limits.queue;
  const { requestsPerMinute, tokensPerMinute, breaker: breakerLimits } = limits;
  const requests = requestsPerMinute === undefined ? undefined : createRateWindow(requestsPerMinute, now);
  const tokens = tokensPerMinute === undefined ? undefined : createRateWindow(tokensPerMinute, now, false);
  const breaker = circuitBreaker(
    // A parameter that is refused is one judge's or model's own matter; the endpoint answers the others.
    handleWhen(
      (error) =>
        error instanceof EndpointError && downFaults.has(error.fault) && error.parameter === undefined,
    ),
    {
      halfOpenAfter: new ExponentialBackoff({
        initialDelay: breakerLimits.firstRestMs,
        maxDelay: breakerLimits.longestRestMs,
      }),
      breaker: new ConsecutiveBreaker(breakerLimits.failures),
    },
  );
  breaker.onStateChange(() => changed(stateOf(breaker.state)));
  const step = Math.max(1, Math.round(limits.concurrency * growth));
  let load = 0;
  let pausedUntil = 0;
  let shrunkAt = -Infinity;
  let answers = 0;

  const pauseMs = (): number => Math.max(0, pausedUntil - now());

  async function turn(units: number, signal: AbortSignal, deadline: Date | undefined): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      if (deadline !== undefined && Date.now() + pauseMs() > deadline.getTime())
        throw paused(name, pauseMs(), reason);
      const wait = Math.max(pausedUntil - now(), requests?.wait(1) ?? 0, tokens?.wait(units) ?? 0);
      if (wait <= 0) break;
      await delay(Math.min(Math.ceil(wait), longestTimerMs), undefined, { signal });
    }
    // Nothing is awaited between the look and the taking.
    requests?.take(1);
    tokens?.take(units);
  }

  function limited(error: EndpointError, start: number): void {
    pausedUntil = Math.max(pausedUntil, now() + (error.retryAfterMs ?? 0));
    // Calls that went out together are refused together; that is one sign and not many.
    if (start < shrunkAt) return;
    shrunkAt = now();
    answers = 0;
    calls.concurrency = Math.max(1, Math.floor(calls.concurrency * (1 - shrink)));
  }

  function answered(): void {
    if (calls.concurrency >= limits.concurrency) return;
    answers += 1;
    if (answers < calls.concurrency) return;
    answers = 0;
    calls.concurrency = Math.min(limits.concurrency, calls.concurrency + step);
  }

  return {
    async admit(work) {
      if (load >= most) {
        throw resourceExhausted(
          `endpoint '${name}' has ${load} requests running and waiting, which is its limit; try again later`,
          {
            // A second is about what an answer takes; the client's own backoff does the rest.
            retryAfterMs: 1000,
            metadata: { endpoint: name, limit: String(most) },
          },
        );
      }
      load += 1;
      try {
        return await work();
      } finally {
        load -= 1;
      }
    },

    // Work that waits between two calls holds no place, so a slow one does not keep the others away.
    call: (work, units, signal, deadline) =>
      calls.add(
        async () => {
          let start = now();
          try {
            const result = await breaker.execute(async () => {
              await turn(units, signal, deadline);
              start = now();
              return work();
            });
            answered();
            return result;
          } catch (error) {
            if (error instanceof BrokenCircuitError)
              throw down(name, breakerLimits.firstRestMs, reason, error);
            if (error instanceof EndpointError && error.fault === 'rate-limited') limited(error, start);
            throw error;
          }
        },
        { signal },
      ),

    tookMore: (more) => tokens?.correct(more),

    occupancy: () => ({
      state: stateOf(breaker.state),
      callsInFlight: calls.pending,
      concurrency: calls.concurrency,
      admitted: load,
      pauseMs: pauseMs(),
    }),
  };
}

function stateOf(state: CircuitState): EndpointState {
  if (state === CircuitState.Open || state === CircuitState.Isolated) return 'down';
  return state === CircuitState.HalfOpen ? 'recovering' : 'serving';
}

function paused(name: string, retryAfterMs: number, reason: ErrorReason): PlumbError {
  const seconds = Math.ceil(retryAfterMs / 1000);
  return unavailable(
    `endpoint '${name}' has asked to be left alone for ${seconds} s more, which is longer than the caller waits`,
    { reason, retryAfterMs, metadata: { endpoint: name, fault: 'rate-limited' } },
  );
}

function down(name: string, retryAfterMs: number, reason: ErrorReason, cause?: unknown): PlumbError {
  return unavailable(`endpoint '${name}' has failed too often in a row and is left alone for a while`, {
    reason,
    retryAfterMs,
    metadata: { endpoint: name, fault: 'circuit-open' },
    cause,
  });
}
