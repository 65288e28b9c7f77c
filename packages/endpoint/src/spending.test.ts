import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import fc from 'fast-check';
import { accountRecordSchema, createSpending, emptyAccount } from './spending.ts';
import type { AccountRecord, AccountStore } from './spending.ts';

/** A store in memory; `fail` makes the next writes fail. */
const judging = { name: 'judging', fix: 'raise it', reason: 'JUDGE_BUDGET_EXHAUSTED' } as const;

function memoryStore() {
  const records = new Map<string, AccountRecord>();
  const state = { fail: 0, writes: 0 };
  const store: AccountStore = {
    get: (runId) => Promise.resolve(records.get(runId)),
    update(runId, change) {
      state.writes += 1;
      if (state.fail > 0) {
        state.fail -= 1;
        return Promise.reject(new Error('away'));
      }
      const next = change(records.get(runId) ?? emptyAccount(runId));
      records.set(runId, next);
      return Promise.resolve(next);
    },
  };
  return { store, state };
}

const noFailure = (error: unknown): void => assert.fail(String(error));
const amount = (inputTokens: number, cost = 0) => ({ inputTokens, outputTokens: 0, cost });

test('whatever calls cost within their estimates, a budget is never passed, and what is left is less than the next call', async () => {
  const calls = fc.array(
    fc.record({
      estimate: fc.integer({ min: 1, max: 100 }),
      share: fc.double({ min: 0, max: 1, noNaN: true }),
    }),
    {
      maxLength: 60,
    },
  );
  await fc.assert(
    fc.asyncProperty(calls, fc.integer({ min: 0, max: 1500 }), async (all, tokens) => {
      const spending = createSpending(memoryStore().store, judging, { tokens }, noFailure);
      const account = await spending.account('run');
      let spent = 0;
      const open: (() => void)[] = [];
      for (const [index, { estimate, share }] of all.entries()) {
        try {
          const reservation = account.reserve(amount(estimate), 'judge');
          const actual = Math.floor(estimate * share);
          spent += actual;
          // Every other call is still under way when the next ones are asked for.
          if (index % 2 === 0) open.push(() => reservation.settle(amount(actual)));
          else reservation.settle(amount(actual));
        } catch (error) {
          assert.ok(
            error instanceof PlumbError && error.reason === 'JUDGE_BUDGET_EXHAUSTED' && error.retryable,
          );
        }
      }
      for (const settle of open) settle();
      await spending.flush();
      const { inputTokens } = await spending.spend('run');
      assert.equal(inputTokens, spent);
      assert.ok(spent <= tokens);
    }),
  );
});

test('a raised budget lets the next call through, and money counts as tokens do', async () => {
  const spending = createSpending(memoryStore().store, judging, { cost: 1 }, noFailure);
  const account = await spending.account('run');
  account.reserve(amount(10, 0.9), 'judge').settle(amount(10, 0.9));
  assert.throws(() => account.reserve(amount(10, 0.2), 'judge'), /0\.9000 of 1 in money/);
  assert.equal((await spending.spend('run')).exhausted, true);
  const raised = await spending.setBudget('run', { cost: 2 });
  assert.equal(raised.exhausted, false);
  account.reserve(amount(10, 0.2), 'judge').settle(amount(10, 0.2));
  await spending.flush();
  const { cost, calls, budget } = await spending.spend('run');
  assert.ok(Math.abs(cost - 1.1) < 1e-9);
  assert.deepEqual([calls, budget], [2, { cost: 2 }]);
});

test('what nobody told is booked as it was estimated, and every name has its own account', async () => {
  const { store } = memoryStore();
  const spending = createSpending(store, judging, {}, noFailure);
  const account = await spending.account('run');
  account.reserve(amount(100, 0.5), 'one').settle(undefined);
  account.reserve(amount(100, 0.5), 'one').settle(amount(70, 0.25));
  account.reserve(amount(100, 0.5), 'other').settle(amount(10, 0));
  await spending.flush();
  const kept = await store.get('run');
  const one = { inputTokens: 170, cost: 0.75, calls: 2, estimatedCalls: 1, estimatedTokens: 100 };
  const other = { inputTokens: 10, cost: 0, calls: 1, estimatedCalls: 0, estimatedTokens: 0 };
  assert.deepEqual(kept, {
    runId: 'run',
    inputTokens: 180,
    outputTokens: 0,
    cost: 0.75,
    calls: 3,
    estimatedCalls: 1,
    estimatedTokens: 100,
    byName: { one: { ...one, outputTokens: 0 }, other: { ...other, outputTokens: 0 } },
  });
});

test('an account from before names were kept is read', () => {
  const { runId, inputTokens, outputTokens, cost, calls } = emptyAccount('run');
  const old = accountRecordSchema.parse({ runId, inputTokens, outputTokens, cost, calls });
  assert.deepEqual(old, emptyAccount('run'));
});

test('what could not be written is written later, once', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { store, state } = memoryStore();
  const failures: unknown[] = [];
  const spending = createSpending(store, judging, {}, (error) => failures.push(error));
  const account = await spending.account('run');
  state.fail = 1;
  account.reserve(amount(10), 'judge').settle(amount(7));
  await spending.flush();
  assert.equal(failures.length, 1);
  assert.equal((await spending.spend('run')).inputTokens, 7, 'it counts all the same');
  t.mock.timers.tick(1000);
  await spending.flush();
  assert.equal((await store.get('run'))?.inputTokens, 7);
  assert.equal((await spending.spend('run')).inputTokens, 7);
});

test('two replicas share an account', async () => {
  let clock = 0;
  const { store } = memoryStore();
  const [one, other] = [0, 1].map(() =>
    createSpending(store, judging, { tokens: 100 }, noFailure, () => clock),
  );
  assert.ok(one && other);
  const [first, second] = [await one.account('run'), await other.account('run')];
  first.reserve(amount(60), 'judge').settle(amount(60));
  second.reserve(amount(30), 'judge').settle(amount(30));
  await one.flush();
  await other.flush();
  clock = 2000;
  const fresh = await one.account('run');
  assert.throws(() => fresh.reserve(amount(20), 'judge'), /90 of 100 tokens/);
  assert.equal((await other.spend('run')).inputTokens, 90);
});
