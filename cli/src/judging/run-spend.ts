import { createClient } from '@plumb/kit/rpc';
import { JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';

/** What a run has spent on judging. */
export interface RunSpend {
  /** Input and output together. */
  readonly tokens: number;
  /** Calls to endpoints, failed ones included. */
  readonly calls: number;
  /** By the price list of the judges file. */
  readonly cost: number;
  /** ISO 4217 code. */
  readonly currency: string;
}

/** Asks the judge service at `address`. @throws PlumbError UNAVAILABLE if it does not answer */
export async function runSpend(address: string, runId: string): Promise<RunSpend> {
  const judge = createClient(JudgeService, address);
  try {
    const { spend } = await judge.getSpend({ runId });
    return {
      tokens: Number((spend?.usage?.inputTokens ?? 0n) + (spend?.usage?.outputTokens ?? 0n)),
      calls: Number(spend?.calls ?? 0n),
      cost: spend?.cost?.amount ?? 0,
      currency: spend?.cost?.currency ?? '',
    };
  } finally {
    judge.close();
  }
}
