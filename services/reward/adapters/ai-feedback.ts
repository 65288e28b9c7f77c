/** The reward aif: a judge's verdict, 1 for accepted and 0 for rejected, or its grade. */

import { PlumbError, failedPrecondition, unavailable } from '@plumb/kit/errors';
import type { RpcClient } from '@plumb/kit/rpc';
import { JudgeMode } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type { JudgeInfo, JudgeService, Verdict } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { scoreEach } from '../domain/reward-scorer.ts';
import type {
  RewardInfo,
  RewardScorer,
  RewardState,
  ScoreValue,
  ScoringItem,
} from '../domain/reward-scorer.ts';

/** Settings of the reward. */
export interface AiFeedbackOptions {
  /** Name of the judge that is asked. */
  readonly judge: string;
  /** Verdicts asked for at a time. */
  readonly concurrency: number;
  /** Longest wait for a verdict, in milliseconds; a caller's own deadline is kept if it is shorter. */
  readonly deadlineMs: number;
  /** Ends the watch on the judge. */
  readonly signal: AbortSignal;
}

// A dead judge is noticed within two of these, and the answer to a question about it takes no longer.
const watchEveryMs = 2000;

/** The reward, and a watch on its judge that keeps its version, hash and state up to date. */
export function aiFeedback(client: RpcClient<typeof JudgeService>, options: AiFeedbackOptions): RewardScorer {
  let known: JudgeInfo | undefined;
  let state: RewardState = { serving: false, reason: 'the judge has not been asked yet' };

  async function look(): Promise<void> {
    try {
      const { judges } = await client.listJudges({}, { deadlineMs: watchEveryMs, signal: options.signal });
      known = judges.find(({ name }) => name === options.judge);
      state = stateOf(known, options.judge);
    } catch (error) {
      state = {
        serving: false,
        reason: `the judge service does not answer: ${PlumbError.from(error).message}`,
      };
    }
  }

  async function watch(): Promise<void> {
    await look();
    if (options.signal.aborted) return;
    // Unreferenced: the watch alone keeps no process alive.
    setTimeout(() => void watch(), watchEveryMs).unref();
  }
  void watch();

  async function judge(item: ScoringItem): Promise<ScoreValue> {
    if (known !== undefined && !state.serving) throwUnusable(known, state.reason);
    const left = item.deadline === undefined ? Infinity : item.deadline.getTime() - Date.now();
    const { verdict } = await client.judge(
      { judge: options.judge, video: item.video, prompt: item.prompt, runId: item.runId },
      { signal: item.signal, deadlineMs: Math.max(1, Math.min(left, options.deadlineMs)) },
    );
    if (verdict === undefined) throw unanswered('no verdict');
    return toScore(verdict);
  }

  return {
    get info(): RewardInfo {
      const grades = known?.mode === JudgeMode.GRADE;
      return {
        name: 'aif',
        version: known?.version ?? '',
        kind: 'ai-feedback',
        weightsHash: known?.judgeHash ?? '',
        minimum: grades ? 1 : 0,
        maximum: grades ? 5 : 1,
        higherIsBetter: true,
        framesSampled: 0,
        fpsExpected: 0,
      };
    },
    // Verdicts gain nothing from waiting for each other: each is its own batch, and batches run side by side.
    batching: {
      largestBatch: 1,
      largestDelayMs: 0,
      concurrentBatches: options.concurrency,
      largestQueue: 8192,
    },
    // The judge keeps its verdicts itself, by the hash of the rubric that made them.
    cacheable: false,
    state: () => state,
    score: (items) => scoreEach(items, judge),
  };
}

function stateOf(judge: JudgeInfo | undefined, name: string): RewardState {
  if (judge === undefined) return { serving: false, reason: `the judge service has no judge '${name}'` };
  if (judge.heldOut)
    return { serving: false, reason: `judge '${name}' is held out; training signals may not use it` };
  if (judge.mode === JudgeMode.COMPARE) {
    return { serving: false, reason: `judge '${name}' compares clips; a reward needs mode binary or grade` };
  }
  return { serving: true };
}

/** A judge that is there and may not be asked: waiting does not change it. One that is away is asked, and says so itself. */
function throwUnusable(judge: JudgeInfo, reason: string): void {
  if (judge.heldOut || judge.mode === JudgeMode.COMPARE) {
    throw failedPrecondition(`${reason}; name another one in PLUMB_AIF_JUDGE`, {
      reason: 'JUDGE_MISCONFIGURED',
    });
  }
}

function toScore(verdict: Verdict): ScoreValue {
  return {
    value: valueOf(verdict),
    details: verdict.probability === undefined ? {} : { probability: verdict.probability },
    reason: verdict.reason,
    failureMode: verdict.failureMode,
    checks: verdict.checks,
    version: verdict.judgeVersion,
    weightsHash: verdict.judgeHash,
    cached: verdict.cached,
  };
}

function valueOf({ answer }: Verdict): number {
  if (answer.case === 'accept') return answer.value ? 1 : 0;
  if (answer.case === 'grade') return answer.value;
  throw unanswered('a verdict without an answer');
}

function unanswered(what: string): PlumbError {
  return unavailable(`the judge service gave ${what}; its version may not fit this one`, {
    reason: 'REWARD_FAILED',
  });
}
