/** What runs spend at endpoints, and what they may spend. */

import { resourceExhausted } from '@plumb/kit/errors';
import type { ErrorReason, PlumbError } from '@plumb/kit/errors';
import { z } from 'zod';

const amount = z.number().min(0);

const budgetSchema = z.strictObject({
  /** Input and output tokens together. */
  tokens: amount.optional(),
  /** In the currency of the endpoints' file. */
  cost: amount.optional(),
});

/** Limits of a run; an absent one does not limit. */
export type Budget = z.output<typeof budgetSchema>;

const totals = {
  inputTokens: amount,
  outputTokens: amount,
  cost: amount,
  calls: amount,
  /** Of the calls, those of which nobody said what they took: they are booked as they were estimated. */
  estimatedCalls: amount.default(0),
  /** Of the tokens, those of these calls. */
  estimatedTokens: amount.default(0),
};
const totalsSchema = z.strictObject(totals);

/** What a run has spent, as it is kept. */
export const accountRecordSchema = z.strictObject({
  runId: z.string(),
  ...totals,
  /** The same for every judge or model that was asked, by its name. */
  byName: z.record(z.string(), totalsSchema).default({}),
  /** Set by somebody; absent for the budget of the file. */
  budget: budgetSchema.optional(),
});

export type AccountRecord = z.output<typeof accountRecordSchema>;
/** What was spent, in all or on one judge or model. */
export type Totals = z.output<typeof totalsSchema>;

/** What one call takes. */
export interface Amount {
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly cost: number;
}

/** What a run has spent and may spend. */
export type Spend = Omit<AccountRecord, 'budget'> & {
  readonly budget: Budget;
  /** The last call that was asked for did not fit, or nothing is left. */
  readonly exhausted: boolean;
};

/** What a budget is for. */
export interface Purpose {
  /** Such as `judging`. */
  readonly name: string;
  /** How it is raised. */
  readonly fix: string;
  readonly reason: ErrorReason;
}

/** Where accounts are kept, shared by all replicas. */
export interface AccountStore {
  get(runId: string): Promise<AccountRecord | undefined>;
  /** Changes an account as it is at that moment; `change` may be called several times. Gives what was written. */
  update(runId: string, change: (current: AccountRecord) => AccountRecord): Promise<AccountRecord>;
}

/** Money that was set aside for a call. */
export interface Reservation {
  /**
   * Ends it.
   *
   * @param actual What the call took; undefined books it as it was estimated, for a call that may have been worked on and
   *   of which nobody said what it took.
   */
  settle(actual: Amount | undefined): void;
}

/** The account of one run. */
export interface Account {
  /**
   * Sets aside what a call may take.
   *
   * @param name Judge or model that is asked.
   * @throws PlumbError RESOURCE_EXHAUSTED if that and everything spent and set aside is more than
   *   the budget.
   */
  reserve(estimate: Amount, name: string): Reservation;
}

/** Accounts of all runs. */
export interface Spending {
  /** The account of a run, read from the store the first time and again while it is exhausted. An empty id has no limit. */
  account(runId: string): Promise<Account>;
  /** @throws what the store throws */
  spend(runId: string): Promise<Spend>;
  /** Replaces the budget of a run. @throws what the store throws */
  setBudget(runId: string, budget: Budget): Promise<Spend>;
  /** Writes everything that is not written yet. */
  flush(): Promise<void>;
}

interface Books {
  /** As in the store, with what other replicas wrote. */
  stored: AccountRecord;
  /** Spent here and not in the store yet. */
  unsaved: AccountRecord;
  reservedTokens: number;
  reservedCost: number;
  exhausted: boolean;
  /** When the store was last read, in milliseconds of the clock. */
  readAt: number;
  saving: Promise<void> | undefined;
}

// What others spend and a raised budget are seen within this time.
const staleMs = 1000;
const retryMs = 1000;

/**
 * @param purpose What the money is for, in the error of a run that has spent it.
 * @param standard Budget of a run for which nobody has set one.
 * @param storeFailed Told when the store could not be written; it is tried again.
 */
export function createSpending(
  store: AccountStore,
  purpose: Purpose,
  standard: Budget,
  storeFailed: (error: unknown) => void,
  now: () => number = () => performance.now(),
): Spending {
  const open = new Map<string, Promise<Books>>();

  async function read(runId: string): Promise<Books> {
    return {
      stored: (await store.get(runId)) ?? emptyAccount(runId),
      unsaved: emptyAccount(runId),
      reservedTokens: 0,
      reservedCost: 0,
      exhausted: false,
      readAt: now(),
      saving: undefined,
    };
  }

  async function booksOf(runId: string): Promise<Books> {
    const known = open.get(runId) ?? read(runId);
    open.set(runId, known);
    let books: Books;
    try {
      books = await known;
    } catch (error) {
      open.delete(runId);
      throw error;
    }
    if (now() - books.readAt > staleMs) {
      books.readAt = now();
      const fresh = await store.get(runId);
      if (fresh !== undefined && books.saving === undefined) books.stored = fresh;
    }
    return books;
  }

  function save(runId: string, books: Books): void {
    books.saving ??= (async () => {
      // Calls that end together are written together.
      await Promise.resolve();
      while (books.unsaved.calls > 0) {
        const part = books.unsaved;
        try {
          const written = await store.update(runId, (current) => sum(current, part));
          books.stored = written;
          books.unsaved = difference(books.unsaved, part);
          books.readAt = now();
        } catch (error) {
          storeFailed(error);
          setTimeout(() => save(runId, books), retryMs).unref();
          break;
        }
      }
      books.saving = undefined;
    })();
  }

  const budgetOf = (books: Books): Budget => books.stored.budget ?? standard;

  function spendOf(books: Books): Spend {
    const { budget: _, ...total } = sum(books.stored, books.unsaved);
    const budget = budgetOf(books);
    return { ...total, budget, exhausted: books.exhausted || overdrawn(total, budget) };
  }

  return {
    async account(runId) {
      if (runId === '') return { reserve: () => ({ settle: () => undefined }) };
      const books = await booksOf(runId);
      return {
        reserve(estimate, name) {
          const total = sum(books.stored, books.unsaved);
          const tokens = estimate.inputTokens + estimate.outputTokens;
          const budget = budgetOf(books);
          const wouldBe = {
            tokens: total.inputTokens + total.outputTokens + books.reservedTokens + tokens,
            cost: total.cost + books.reservedCost + estimate.cost,
          };
          books.exhausted =
            (budget.tokens !== undefined && wouldBe.tokens > budget.tokens) ||
            (budget.cost !== undefined && wouldBe.cost > budget.cost);
          if (books.exhausted) throw exhausted(runId, total, budget, purpose);
          books.reservedTokens += tokens;
          books.reservedCost += estimate.cost;
          return {
            settle(actual) {
              books.reservedTokens -= tokens;
              books.reservedCost -= estimate.cost;
              books.unsaved = sum(
                books.unsaved,
                oneCall(runId, name, actual ?? estimate, actual === undefined),
              );
              save(runId, books);
            },
          };
        },
      };
    },

    spend: async (runId) => spendOf(await booksOf(runId)),

    async setBudget(runId, budget) {
      const books = await booksOf(runId);
      books.stored = await store.update(runId, (current) => ({ ...current, budget }));
      books.exhausted = false;
      return spendOf(books);
    },

    async flush() {
      for (const books of open.values()) await (await books).saving;
    },
  };
}

const nothing: Totals = {
  inputTokens: 0,
  outputTokens: 0,
  cost: 0,
  calls: 0,
  estimatedCalls: 0,
  estimatedTokens: 0,
};

/** The account of a run that has spent nothing. */
export function emptyAccount(runId: string): AccountRecord {
  return { runId, ...nothing, byName: {} };
}

function oneCall(runId: string, name: string, took: Amount, estimated: boolean): AccountRecord {
  const { inputTokens, outputTokens, cost } = took;
  const call: Totals = {
    inputTokens,
    outputTokens,
    cost,
    calls: 1,
    estimatedCalls: estimated ? 1 : 0,
    estimatedTokens: estimated ? inputTokens + outputTokens : 0,
  };
  return { runId, ...call, byName: { [name]: call } };
}

/** The first record with the second one's numbers added. */
export function sum(record: AccountRecord, more: AccountRecord): AccountRecord {
  return combined(record, more, 1);
}

function difference(record: AccountRecord, less: AccountRecord): AccountRecord {
  return combined(record, less, -1);
}

function combined(record: AccountRecord, other: AccountRecord, sign: 1 | -1): AccountRecord {
  const names = new Set([...Object.keys(record.byName), ...Object.keys(other.byName)]);
  return {
    ...record,
    ...added(record, other, sign),
    byName: Object.fromEntries(
      [...names].map((name) => [
        name,
        added(record.byName[name] ?? nothing, other.byName[name] ?? nothing, sign),
      ]),
    ),
  };
}

function added(one: Totals, other: Totals, sign: 1 | -1): Totals {
  return {
    inputTokens: one.inputTokens + sign * other.inputTokens,
    outputTokens: one.outputTokens + sign * other.outputTokens,
    // Sums of fractions come back with an error in the last digits.
    cost: Math.max(0, one.cost + sign * other.cost),
    calls: one.calls + sign * other.calls,
    estimatedCalls: one.estimatedCalls + sign * other.estimatedCalls,
    estimatedTokens: one.estimatedTokens + sign * other.estimatedTokens,
  };
}

function overdrawn(total: Omit<AccountRecord, 'budget'>, budget: Budget): boolean {
  return (
    (budget.tokens !== undefined && total.inputTokens + total.outputTokens >= budget.tokens) ||
    (budget.cost !== undefined && total.cost >= budget.cost)
  );
}

function exhausted(runId: string, total: AccountRecord, budget: Budget, purpose: Purpose): PlumbError {
  const spent = [
    ...(budget.tokens === undefined
      ? []
      : [`${total.inputTokens + total.outputTokens} of ${budget.tokens} tokens`]),
    ...(budget.cost === undefined ? [] : [`${total.cost.toFixed(4)} of ${budget.cost} in money`]),
  ].join(' and ');
  return resourceExhausted(
    `run '${runId}' has spent ${spent} of its ${purpose.name} budget, and the next call does not fit; ${purpose.fix}`,
    { reason: purpose.reason, retryAfterMs: 5000, metadata: { run: runId } },
  );
}
