/** One judge at work: kept verdict, else a call in flight, else a call. */

import { LRUCache } from 'lru-cache';
import { parseClipAnswer, parseComparisonAnswer } from './answer.ts';
import type { AnswerError, ComparisonAnswer } from './answer.ts';
import type { Admission } from './admission.ts';
import { ask } from './asking.ts';
import type { Asked } from './asking.ts';
import { acceptProbability } from './confidence.ts';
import type { Endpoint, EndpointError } from './endpoint.ts';
import type { EndpointDefinition, Judge } from './judge-definition.ts';
import { askAbout } from './question.ts';
import type { EncodedFrame, Prompt } from './question.ts';
import { createSingleFlight } from './single-flight.ts';
import { verdictKey } from './verdict.ts';
import type { ClipIdentity, ClipVerdict, ComparisonVerdict, Judged, StoredVerdict } from './verdict.ts';
import type { VerdictStore } from './verdict-store.ts';

/** A clip to be judged. Its frames are only made when an endpoint has to be asked. */
export interface JudgedClip {
  readonly identity: ClipIdentity;
  /** Frames as the judge wants them. */
  frames(judge: Judge): Promise<readonly EncodedFrame[]>;
}

/** An endpoint with its limits. */
export interface EndpointAccess {
  readonly endpoint: Endpoint;
  readonly definition: EndpointDefinition;
  readonly admission: Admission;
}

/** What the outside is told. */
export interface JudgingEvents {
  /** A call failed; another may follow. */
  fault?(judge: Judge, error: EndpointError | AnswerError, attempt: number): void;
  /** The store could not be read or written; the verdict is not affected. */
  storeFailed?(error: unknown): void;
  verdict?(judge: Judge, source: 'memory' | 'store' | 'endpoint'): void;
}

/** Judges clips. */
export interface Judging {
  /**
   * A verdict on one clip, by a judge of mode binary or grade.
   *
   * @param signal The caller's deadline and cancellation.
   * @throws PlumbError as `ask` does, RESOURCE_EXHAUSTED if the endpoint's queue is full, or the signal's reason.
   */
  judge(judge: Judge, prompt: Prompt, clip: JudgedClip, signal: AbortSignal): Promise<Judged<ClipVerdict>>;
  /** Which of two clips is better, by a judge of mode compare. Asked in both orders and averaged. Throws as judge does. */
  compare(
    judge: Judge,
    prompt: Prompt,
    clips: readonly [JudgedClip, JudgedClip],
    signal: AbortSignal,
  ): Promise<Judged<ComparisonVerdict>>;
}

/**
 * @param accessOf The endpoint of a judge.
 * @param remembered Verdicts that are kept in memory besides the store.
 */
export function createJudging(
  accessOf: (judge: Judge) => EndpointAccess,
  store: VerdictStore,
  events: JudgingEvents = {},
  remembered = 20_000,
): Judging {
  const memory = new LRUCache<string, StoredVerdict>({ max: remembered });
  const flights = createSingleFlight<Judged<StoredVerdict>>();

  async function stored(key: string): Promise<StoredVerdict | undefined> {
    try {
      return await store.get(key);
    } catch (error) {
      events.storeFailed?.(error);
      return undefined;
    }
  }

  async function once(
    judge: Judge,
    prompt: Prompt,
    clips: readonly JudgedClip[],
    signal: AbortSignal,
    work: (signal: AbortSignal) => Promise<StoredVerdict>,
  ): Promise<Judged<StoredVerdict>> {
    const key = verdictKey(
      judge,
      prompt,
      clips.map((clip) => clip.identity),
    );
    const known = memory.get(key);
    if (known !== undefined) {
      events.verdict?.(judge, 'memory');
      return { ...known, cached: true };
    }
    return flights.run(key, signal, async (flightSignal) => {
      const kept = await stored(key);
      if (kept !== undefined) {
        memory.set(key, kept);
        events.verdict?.(judge, 'store');
        return { ...kept, cached: true };
      }
      const verdict = await work(flightSignal);
      memory.set(key, verdict);
      try {
        // Waited for, so that a verdict that a caller has seen is the verdict that it gets after a restart.
        await store.put(key, verdict);
      } catch (error) {
        events.storeFailed?.(error);
      }
      events.verdict?.(judge, 'endpoint');
      return { ...verdict, cached: false };
    });
  }

  function asking<T>(judge: Judge, parse: (completion: Asked<T>['completion']) => T) {
    const { endpoint, definition, admission } = accessOf(judge);
    return {
      endpoint,
      retries: definition.retries,
      admit: <R>(call: () => Promise<R>, signal: AbortSignal) => admission.call(call, signal),
      parse,
      onFault: (error: EndpointError | AnswerError, attempt: number): void =>
        events.fault?.(judge, error, attempt),
    };
  }

  return {
    async judge(judge, prompt, clip, signal) {
      const { mode } = judge.definition;
      if (mode === 'compare') throw new TypeError(`judge ${judge.name} compares clips`);
      const verdict = await once(judge, prompt, [clip], signal, (flightSignal) =>
        accessOf(judge).admission.verdict(async () => {
          const question = askAbout(judge, prompt, [await clip.frames(judge)]);
          const asked = await ask(
            question,
            asking(judge, (completion) => parseClipAnswer(completion, mode, judge.rubric)),
            flightSignal,
          );
          const { tokens } = asked.completion;
          const probability =
            mode === 'binary' && tokens !== undefined ? acceptProbability(tokens) : undefined;
          return {
            kind: 'clip' as const,
            ...asked.answer,
            checks: { ...asked.answer.checks },
            ...(probability === undefined ? {} : { probability }),
            ...cost([asked]),
          };
        }),
      );
      if (verdict.kind !== 'clip') throw new TypeError('a verdict on two clips is kept under the key of one');
      return verdict;
    },

    async compare(judge, prompt, clips, signal) {
      const verdict = await once(judge, prompt, clips, signal, (flightSignal) =>
        accessOf(judge).admission.verdict(async () => {
          const [first, second] = await Promise.all([clips[0].frames(judge), clips[1].frames(judge)]);
          // One order after the other: two calls at once would let a comparison take two places of the endpoint.
          const forward = await ask(
            askAbout(judge, prompt, [first, second]),
            asking(judge, parseComparisonAnswer),
            flightSignal,
          );
          const backward = await ask(
            askAbout(judge, prompt, [second, first]),
            asking(judge, parseComparisonAnswer),
            flightSignal,
          );
          return {
            kind: 'comparison' as const,
            firstPreferred: (preference(forward.answer) + 1 - preference(backward.answer)) / 2,
            reason: `${forward.answer.reason} In the other order: ${backward.answer.reason}`,
            ...cost([forward, backward]),
          };
        }),
      );
      if (verdict.kind !== 'comparison')
        throw new TypeError('a verdict on one clip is kept under the key of two');
      return verdict;
    },
  };
}

/** P(the clip shown first is better). */
function preference(answer: ComparisonAnswer): number {
  return { A: 1, tie: 0.5, B: 0 }[answer.better];
}

function cost(asked: readonly Asked<unknown>[]) {
  const sum = (value: (one: Asked<unknown>) => number): number =>
    asked.reduce((total, one) => total + value(one), 0);
  return {
    model: asked[0]?.completion.model ?? '',
    inputTokens: sum((one) => one.completion.inputTokens),
    outputTokens: sum((one) => one.completion.outputTokens),
    endpointMs: sum((one) => one.endpointMs),
    calls: sum((one) => one.calls),
  };
}
