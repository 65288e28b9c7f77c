import { describeError } from '@plumb/kit/errors';
import type { RpcClient } from '@plumb/kit/rpc';
import { logger } from '@plumb/kit/telemetry';
import type { JudgeService, Spend } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type { Budgets } from '@plumb/proto/plumb/loop/v1/loop_pb.js';

const log = logger('plumb.loop.judge');

/** What the judges of a run have cost so far. */
export interface JudgeSpend {
  readonly tokens: number;
  readonly cost: number;
  /** ISO 4217; empty while nothing cost anything. */
  readonly currency: string;
  /** Verdicts wait until the budget is raised. */
  readonly exhausted: boolean;
}

/** The judge service as the keeper of a run's budget of tokens and money. */
export interface JudgeBudgets {
  /** True where there is a judge service to hold a budget. */
  readonly available: boolean;
  /** Puts a run's budget in the place of what there was. Throws what the judge service answers. */
  set(runId: string, budgets: Budgets | undefined, signal?: AbortSignal): Promise<void>;
  /** What the run has spent, at most some seconds old; what was last known while the judge service is away. */
  spend(runId: string): Promise<JudgeSpend>;
  /** The run's account as the judge service has it at present; undefined while it is away. */
  account(runId: string): Promise<Spend | undefined>;
}

const nothing: JudgeSpend = { tokens: 0, cost: 0, currency: '', exhausted: false };

/** Without a judge service there is nothing to spend. */
export const noJudgeBudgets: JudgeBudgets = {
  available: false,
  set: () => Promise.resolve(),
  spend: () => Promise.resolve(nothing),
  account: () => Promise.resolve(undefined),
};

/** An answer stands for this long, in milliseconds: a watched run asks several times a second. */
const freshMs = 3_000;
/** A report waits so long for the judge service, in milliseconds. */
const patienceMs = 2_000;
/** Runs whose answers are kept. */
const mostRuns = 256;

/** The judge service behind a client. */
export function judgeBudgetsOf(client: RpcClient<typeof JudgeService>): JudgeBudgets {
  const known = new Map<string, { readonly at: number; readonly spend: Promise<JudgeSpend> }>();

  async function ask(runId: string, before: JudgeSpend): Promise<JudgeSpend> {
    try {
      const { spend } = await client.getSpend({ runId });
      const { usage, cost } = spend ?? {};
      return {
        tokens: Number((usage?.inputTokens ?? 0n) + (usage?.outputTokens ?? 0n)),
        cost: cost?.amount ?? 0,
        currency: cost?.currency ?? '',
        exhausted: spend?.exhausted ?? false,
      };
    } catch (thrown) {
      // The judge holds the budget by itself; here it is only told, and a moment late is late enough.
      log.warn({ runId, error: describeError(thrown) }, 'what the judges have spent is not known at present');
      return before;
    }
  }

  return {
    available: true,
    async account(runId) {
      try {
        return (await client.getSpend({ runId }, { deadlineMs: patienceMs })).spend;
      } catch (thrown) {
        log.warn({ runId, error: describeError(thrown) }, 'the report has no account of the judges');
        return undefined;
      }
    },
    async set(runId, budgets, signal) {
      const tokens = budgets?.judgeTokens ?? 0n;
      const cost = budgets?.cost ?? 0;
      const budget = { ...(tokens === 0n ? {} : { tokens }), ...(cost === 0 ? {} : { cost }) };
      await client.setBudget({ runId, budget }, signal === undefined ? {} : { signal });
      known.delete(runId);
    },
    async spend(runId) {
      const standing = known.get(runId);
      const now = performance.now();
      if (standing !== undefined && now - standing.at < freshMs) return await standing.spend;
      const before = standing === undefined ? nothing : await standing.spend;
      const spend = ask(runId, before);
      known.delete(runId);
      if (known.size >= mostRuns) known.delete([...known.keys()][0] ?? '');
      known.set(runId, { at: now, spend });
      return await spend;
    },
  };
}
