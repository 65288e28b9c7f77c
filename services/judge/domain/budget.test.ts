import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { EndpointError, createAdmission, createSpending, emptyAccount } from '@plumb/endpoint';
import type { AccountStore } from '@plumb/endpoint';
import { PlumbError } from '@plumb/kit/errors';
import fc from 'fast-check';
import type { Completion, Endpoint } from './endpoint.ts';
import { defineJudge, judgesFileSchema } from './judge-definition.ts';
import { createJudging } from './judging.ts';
import type { JudgedClip } from './judging.ts';
import { parseRubric } from './rubric.ts';
import { estimateTokens } from './token-estimate.ts';
import { askAbout } from './question.ts';
import type { ClipPictures } from './question.ts';

const atATime = 4;
const file = judgesFileSchema.parse({
  endpoints: {
    e: {
      baseUrl: 'http://127.0.0.1:1/v1',
      concurrency: atATime,
      retries: { firstDelayMs: 0, limit: 2 },
      breaker: { failures: 1_000_000 },
    },
  },
  judges: {
    j: { version: '1', endpoint: 'e', model: 'm', mode: 'binary', rubric: 'r', frames: { count: 1 } },
  },
});
const definition = present(file.judges['j']);
const settings = present(file.endpoints['e']);
const rubric = parseRubric(
  readFileSync(new URL('../rubrics/physics-and-alignment.yaml', import.meta.url), 'utf8'),
);
const judge = defineJudge('j', definition, { rubric });
const prompt = { text: 'a ball falls', category: undefined };
const shown: ClipPictures = {
  frames: 1,
  pictures: [{ mediaType: 'image/png', bytes: new Uint8Array(8), width: 8, height: 8 }],
};
const estimate = estimateTokens(askAbout(judge, prompt, [shown]), definition);
const estimated = estimate.input + estimate.output;
const accepted = JSON.stringify({
  reason: 'it falls',
  checks: { motion: true, picture: true },
  failure_mode: 'none',
  accept: true,
});

function present<T>(value: T | undefined): T {
  assert.ok(value);
  return value;
}

/** What becomes of a call: whether the endpoint works on it, says what it took, and is understood. */
const outcomes = {
  answered: { works: true, says: true },
  'answered without usage': { works: true, says: false },
  unusable: { works: true, says: true },
  'unusable without usage': { works: true, says: false },
  reset: { works: true, says: false },
  'timed out': { works: true, says: false },
  'given up': { works: true, says: false },
  refused: { works: false, says: false },
  'server error': { works: false, says: false },
} as const;
type Outcome = keyof typeof outcomes;

function clipOf(index: number): JudgedClip {
  return {
    identity: { sha256: String(index), mediaType: 'image/png', width: 8, height: 8, frameCount: 1, fps: 8 },
    pictures: () => Promise.resolve(shown),
  };
}

function accountStore(): AccountStore {
  let record = emptyAccount('run');
  return {
    get: () => Promise.resolve(record),
    update: (_, change) => Promise.resolve((record = change(record))),
  };
}

/** Judges clips at an endpoint that keeps its own bill. */
async function judgeAll(calls: readonly { outcome: Outcome; share: number }[], budget: number) {
  const bill = { tokens: 0, silent: 0, mostOver: 0, running: 0 };
  let made = 0;
  const callers = new Set<AbortController>();
  const endpoint: Endpoint = {
    name: 'e',
    async complete(_, signal) {
      bill.running += 1;
      try {
        return await answer(signal);
      } finally {
        bill.running -= 1;
      }
    },
  };
  async function answer(signal: AbortSignal): Promise<Completion> {
    const { outcome, share } = calls[made % calls.length] ?? { outcome: 'answered', share: 1 };
    made += 1;
    const { works, says } = outcomes[outcome];
    // An estimate is from above where the endpoint says nothing; where it says more, that is booked.
    const took = Math.floor(estimated * (says ? share : Math.min(1, share)));
    if (works) {
      bill.tokens += took;
      bill.mostOver = Math.max(bill.mostOver, took - estimated);
      if (!says) bill.silent += 1;
    }
    await setImmediate();
    if (outcome === 'given up') {
      for (const caller of callers) caller.abort(new Error('the caller gave up'));
      await setImmediate();
      throw signal.reason;
    }
    if (outcome === 'reset') throw new EndpointError('connection', 'reset');
    if (outcome === 'timed out') throw new EndpointError('timeout', 'late');
    if (outcome === 'refused') throw new EndpointError('connection', 'refused', { neverSent: true });
    if (outcome === 'server error') throw new EndpointError('server', 'HTTP 500', { status: 500 });
    return {
      content: outcome.startsWith('answered') ? accepted : 'no JSON',
      refusal: null,
      finishReason: 'stop',
      model: 'm',
      tokens: undefined,
      usage: says ? { inputTokens: took, outputTokens: 0 } : undefined,
    };
  }
  const spending = createSpending(
    accountStore(),
    { name: 'judging', fix: 'raise it', reason: 'JUDGE_BUDGET_EXHAUSTED' },
    { tokens: budget },
    (error) => assert.fail(String(error)),
  );
  const admission = createAdmission('e', settings, 'JUDGE_UNAVAILABLE');
  const judging = createJudging({
    accessOf: () => ({ endpoint, definition: settings, admission }),
    store: { get: () => Promise.resolve(undefined), put: () => Promise.resolve() },
    spending,
  });
  const clips = Array.from({ length: 30 }, (_, index) => clipOf(index)).values();
  await Promise.all(
    Array.from({ length: atATime }, async () => {
      for (const clip of clips) {
        const controller = new AbortController();
        callers.add(controller);
        try {
          await judging.judge(judge, prompt, clip, { runId: 'run', signal: controller.signal });
        } catch (error) {
          if (!controller.signal.aborted) assert.ok(error instanceof PlumbError, String(error));
        } finally {
          callers.delete(controller);
        }
      }
    }),
  );
  // A caller that gives up leaves at once; its call ends a moment later.
  do await setImmediate();
  while (bill.running > 0);
  await setImmediate();
  await spending.flush();
  return { bill, made, spend: await spending.spend('run') };
}

test('whatever becomes of the calls, the endpoint bills no more than the budget and one batch, and no less is booked', async () => {
  const call = fc.record({
    outcome: fc.constantFrom(...(Object.keys(outcomes) as Outcome[])),
    share: fc.double({ min: 0, max: 1.5, noNaN: true }),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(call, { minLength: 1, maxLength: 40 }),
      fc.integer({ min: 0, max: 30 * estimated }),
      async (calls, budget) => {
        const { bill, made, spend } = await judgeAll(calls, budget);
        const booked = spend.inputTokens + spend.outputTokens;
        assert.ok(booked >= bill.tokens, `${booked} booked of ${bill.tokens}`);
        assert.ok(bill.tokens <= budget + atATime * bill.mostOver, `${bill.tokens} of ${budget}`);
        assert.equal(spend.calls, made, 'every call is in the account');
        assert.equal(spend.estimatedCalls, bill.silent, 'and those that are only estimated are told apart');
        assert.equal(spend.byName['j']?.calls ?? 0, made);
      },
    ),
    { numRuns: 30 },
  );
});

test('an endpoint that never says what it took comes to an end as others do', async () => {
  const { made, spend } = await judgeAll(
    [{ outcome: 'answered without usage', share: 1 }],
    10 * estimated + 1,
  );
  assert.equal(made, 10);
  assert.deepEqual(
    [spend.estimatedCalls, spend.estimatedTokens, spend.exhausted],
    [10, 10 * estimated, true],
  );
});
