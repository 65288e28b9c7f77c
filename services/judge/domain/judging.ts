/** Judges at work: kept answer, else a call in flight, else a call. */

import { EndpointError } from '@plumb/endpoint';
import type { Account, Admission, Spending } from '@plumb/endpoint';
import { PlumbError } from '@plumb/kit/errors';
import { LRUCache } from 'lru-cache';
import { parseClipAnswer, parseComparisonAnswer } from './answer.ts';
import type { AnswerError, ComparisonAnswer } from './answer.ts';
import { ask } from './asking.ts';
import type { Asked, Asking, Reserved } from './asking.ts';
import { combinePanel, combineVotes } from './clip-verdict.ts';
import type { ClipVerdict, Vote } from './clip-verdict.ts';
import { acceptProbability } from './confidence.ts';
import type { Completion, Endpoint } from './endpoint.ts';
import { rubricFor } from './judge-definition.ts';
import type { EndpointDefinition, Judge, Panel } from './judge-definition.ts';
import { askAbout } from './question.ts';
import type { ClipPictures, Prompt, Question } from './question.ts';
import { createSingleFlight } from './single-flight.ts';
import { costOf, estimateTokens } from './token-estimate.ts';
import type { Tokens } from './token-estimate.ts';
import { verdictKey } from './verdict.ts';
import type { ClipIdentity, ComparisonVerdict, Judged, StoredVerdict } from './verdict.ts';
import type { VerdictStore } from './verdict-store.ts';

/** A clip to be judged. Its frames are only made when an endpoint has to be asked. */
export interface JudgedClip {
  readonly identity: ClipIdentity;
  /** Frames as the judge wants them. */
  pictures(judge: Judge): Promise<ClipPictures>;
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
  /** No call of the judge is answered until somebody changes the configuration. */
  misconfigured?(judge: Judge, error: PlumbError): void;
  /** A call was booked, by the endpoint's word or by the estimate. */
  spent?(judge: Judge, tokens: Tokens, cost: number, estimated: boolean): void;
}

/** Who asks. */
export interface Asker {
  /** Whose budget pays; empty for nobody's. */
  readonly runId: string;
  /** The caller's deadline and cancellation. */
  readonly signal: AbortSignal;
  /** When the caller stops waiting, where that is known. */
  readonly deadline?: Date | undefined;
}

/** A panel's verdict with those of its members. */
export interface PanelVerdict extends ClipVerdict {
  readonly members: readonly ClipVerdict[];
}

/** Judges clips. */
export interface Judging {
  /**
   * A verdict on one clip, by a judge of mode binary or grade.
   *
   * @throws PlumbError as `ask` does, RESOURCE_EXHAUSTED if the endpoint's queue is full, or the signal's reason.
   */
  judge(judge: Judge, prompt: Prompt, clip: JudgedClip, asker: Asker): Promise<ClipVerdict>;
  /** A verdict of several judges, who are asked side by side. Throws as judge does, if any member does. */
  consult(panel: Panel, prompt: Prompt, clip: JudgedClip, asker: Asker): Promise<PanelVerdict>;
  /** Which of two clips is better, by a judge of mode compare. Asked in both orders and averaged. Throws as judge does. */
  compare(
    judge: Judge,
    prompt: Prompt,
    clips: readonly [JudgedClip, JudgedClip],
    asker: Asker,
  ): Promise<Judged<ComparisonVerdict>>;
  /** The questions that `judge` puts, one for each vote. */
  questions(judge: Judge, prompt: Prompt, clip: JudgedClip): Promise<Question[]>;
  /** The questions that `compare` puts, one for each order. */
  comparisonQuestions(
    judge: Judge,
    prompt: Prompt,
    clips: readonly [JudgedClip, JudgedClip],
  ): Promise<Question[]>;
}

/** What judging needs. */
export interface JudgingParts {
  /** The endpoint of a judge. */
  readonly accessOf: (judge: Judge) => EndpointAccess;
  readonly store: VerdictStore;
  readonly spending: Pick<Spending, 'account'>;
  readonly events?: JudgingEvents;
  /** Answers that are kept in memory besides the store; 20,000 by default. */
  readonly remembered?: number;
}

/** Judging with these parts. */
export function createJudging({
  accessOf,
  store,
  spending,
  events = {},
  remembered = 20_000,
}: JudgingParts): Judging {
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
    key: string,
    signal: AbortSignal,
    work: (signal: AbortSignal) => Promise<StoredVerdict>,
  ): Promise<Judged<StoredVerdict>> {
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
      const verdict = await told(judge, () => work(flightSignal));
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

  async function told<T>(judge: Judge, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (error instanceof PlumbError && error.reason === 'JUDGE_MISCONFIGURED')
        events.misconfigured?.(judge, error);
      throw error;
    }
  }

  function asking<T>(
    judge: Judge,
    question: Question,
    account: Account,
    deadline: Date | undefined,
    parse: (completion: Completion) => T,
  ): Asking<T> {
    const { endpoint, definition, admission } = accessOf(judge);
    const { price } = judge.definition;
    const estimate = estimateTokens(question, judge.definition);
    return {
      endpoint,
      retries: definition.retries,
      deadline,
      admit: (call, signal) => admission.call(call, estimate.input + estimate.output, signal, deadline),
      reserve() {
        const reservation = account.reserve(amountOf(estimate, price), judge.name);
        return {
          settle(outcome) {
            const said = saidBy(outcome);
            const tokens = said ?? estimate;
            reservation.settle(said === undefined ? undefined : amountOf(said, price));
            admission.tookMore(tokens.input + tokens.output - estimate.input - estimate.output);
            events.spent?.(judge, tokens, costOf(tokens, price), said === undefined);
            return tokens;
          },
        };
      },
      parse,
      onFault: (error, attempt) => events.fault?.(judge, error, attempt),
    };
  }

  async function answer(
    judge: Judge,
    mode: 'binary' | 'grade',
    prompt: Prompt,
    clip: JudgedClip,
    vote: number,
    { runId, signal, deadline }: Asker,
    pictures: () => Promise<ClipPictures>,
  ): Promise<Vote> {
    const key = verdictKey(judge, prompt, [clip.identity], vote);
    const kept = await once(judge, key, signal, (flightSignal) =>
      accessOf(judge).admission.admit(async () => {
        const account = await spending.account(runId);
        const question = askAbout(judge, prompt, [await pictures()], vote);
        const asked = await ask(
          question,
          asking(judge, question, account, deadline, (completion) =>
            parseClipAnswer(completion, mode, rubricFor(judge, prompt.category)),
          ),
          flightSignal,
        );
        const { tokens } = asked.completion;
        const probability = mode === 'binary' && tokens !== undefined ? acceptProbability(tokens) : undefined;
        return {
          kind: 'clip' as const,
          ...asked.answer,
          checks: { ...asked.answer.checks },
          ...(probability === undefined ? {} : { probability }),
          ...(asked.seed === undefined ? {} : { seed: asked.seed }),
          ...cost([asked]),
        };
      }),
    );
    if (kept.kind !== 'clip') throw new TypeError('an answer about one clip is kept under the key of two');
    return kept;
  }

  const judging: Judging = {
    async judge(judge, prompt, clip, asker) {
      const { mode, votes } = judge.definition;
      if (mode === 'compare') throw new TypeError(`judge ${judge.name} compares clips`);
      // Made once for all votes.
      let made: Promise<ClipPictures> | undefined;
      const pictures = (): Promise<ClipPictures> => (made ??= clip.pictures(judge));
      const answers = await settled(
        Array.from({ length: votes }, (_, vote) => answer(judge, mode, prompt, clip, vote, asker, pictures)),
      );
      return combineVotes(judge, answers);
    },

    async consult(panel, prompt, clip, asker) {
      const members = await settled(panel.members.map((judge) => judging.judge(judge, prompt, clip, asker)));
      return { ...combinePanel(panel, members), members };
    },

    async compare(judge, prompt, clips, { runId, signal, deadline }) {
      const identities = clips.map((clip) => clip.identity);
      const verdict = await once(judge, verdictKey(judge, prompt, identities, 0), signal, (flightSignal) =>
        accessOf(judge).admission.admit(async () => {
          const account = await spending.account(runId);
          const [there, back] = await bothOrders(judge, prompt, clips);
          const put = (question: Question): Promise<Asked<ComparisonAnswer>> =>
            ask(question, asking(judge, question, account, deadline, parseComparisonAnswer), flightSignal);
          // One order after the other: two calls at once would let a comparison take two places of the endpoint.
          const forward = await put(there);
          const backward = await put(back);
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

    async questions(judge, prompt, clip) {
      const pictures = await clip.pictures(judge);
      return Array.from({ length: judge.definition.votes }, (_, vote) =>
        askAbout(judge, prompt, [pictures], vote),
      );
    },

    comparisonQuestions: bothOrders,
  };
  return judging;
}

async function bothOrders(
  judge: Judge,
  prompt: Prompt,
  clips: readonly [JudgedClip, JudgedClip],
): Promise<[Question, Question]> {
  const [first, second] = await Promise.all([clips[0].pictures(judge), clips[1].pictures(judge)]);
  return [askAbout(judge, prompt, [first, second]), askAbout(judge, prompt, [second, first])];
}

/** All results, or the first error once all are over: an answer that was paid for is kept before anybody asks again. */
async function settled<T>(work: readonly Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(work);
  return Promise.all(work);
}

/**
 * What a call took, as far as it is known: the endpoint's word, or nothing where it cannot have worked on the call.
 * Undefined where it may have, and has not said: without usage, after a broken connection or a timeout, and when the caller gave up.
 */
function saidBy(outcome: Parameters<Reserved['settle']>[0]): Tokens | undefined {
  if ('completion' in outcome) {
    const { usage } = outcome.completion;
    return usage === undefined ? undefined : { input: usage.inputTokens, output: usage.outputTokens };
  }
  const { error } = outcome;
  return error instanceof EndpointError && !error.mayHaveWorked ? { input: 0, output: 0 } : undefined;
}

function amountOf(tokens: Tokens, price: Judge['definition']['price']) {
  return { inputTokens: tokens.input, outputTokens: tokens.output, cost: costOf(tokens, price) };
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
    inputTokens: sum((one) => one.tokens.input),
    outputTokens: sum((one) => one.tokens.output),
    endpointMs: sum((one) => one.endpointMs),
    calls: sum((one) => one.calls),
  };
}
