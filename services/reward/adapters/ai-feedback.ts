/** Rewards of kind ai-feedback: a judge's verdict, 1 for accepted and 0 for rejected, or its grade from 0 to 1. */

import { PlumbError, failedPrecondition, unavailable } from '@plumb/kit/errors';
import type { RpcClient } from '@plumb/kit/rpc';
import { EndpointState, JudgeMode, Purpose } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type { EndpointInfo, JudgeInfo, JudgeService, Verdict } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { definitionHash } from '@plumb/rewards';
import type { DefinitionOf } from '@plumb/rewards';
import { gradedValue } from '../domain/graded-value.ts';
import { scoreEach } from '../domain/reward-scorer.ts';
import type { RewardInfo, RewardState, ScoreValue, ScoringItem } from '../domain/reward-scorer.ts';
import type { ManagedScorer } from './reward-set.ts';

/** Settings of the reward. */
export interface AiFeedbackOptions {
  /** Verdicts asked for at a time. */
  readonly concurrency: number;
  /** Longest wait for a verdict, in milliseconds; a caller's own deadline is kept if it is shorter. */
  readonly deadlineMs: number;
}

// A dead judge is noticed within two of these, and the answer to a question about it takes no longer.
const watchEveryMs = 1500;

/** The reward, and a watch on its judge that keeps its version, hash and state up to date. */
export function aiFeedback(
  definition: DefinitionOf<'ai-feedback'>,
  client: RpcClient<typeof JudgeService>,
  options: AiFeedbackOptions,
): ManagedScorer {
  const closed = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  let known: JudgeInfo | undefined;
  let state: RewardState = { serving: false, reason: 'the judge has not been asked yet' };

  async function look(): Promise<void> {
    try {
      const call = { deadlineMs: watchEveryMs, signal: closed.signal };
      const [{ judges }, { endpoints }] = await Promise.all([
        client.listJudges({}, call),
        client.listEndpoints({}, call),
      ]);
      known = judges.find(({ name }) => name === definition.judge);
      state = stateOf(known, definition.judge, endpoints);
    } catch (error) {
      state = {
        serving: false,
        reason: `the judge service does not answer: ${PlumbError.from(error).message}`,
      };
    }
  }

  async function watch(): Promise<void> {
    await look();
    if (closed.signal.aborted) return;
    // Unreferenced: the watch alone keeps no process alive.
    timer = setTimeout(() => void watch(), watchEveryMs).unref();
  }
  const watching = watch();

  async function judge(item: ScoringItem): Promise<ScoreValue> {
    if (known !== undefined && !state.serving) throwUnusable(known, state.reason);
    const left = item.deadline === undefined ? Infinity : item.deadline.getTime() - Date.now();
    const { verdict } = await client.judge(
      {
        judge: definition.judge,
        video: item.video,
        prompt: item.prompt,
        runId: item.runId,
        // The judge service refuses a held-out judge for anything but an evaluation.
        purpose: item.evaluation === true ? Purpose.EVALUATION : Purpose.TRAINING,
      },
      { signal: item.signal, deadlineMs: Math.max(1, Math.min(left, options.deadlineMs)) },
    );
    if (verdict === undefined) throw unanswered('no verdict');
    return toScore(verdict);
  }

  return {
    get info(): RewardInfo {
      return {
        name: definition.name,
        description: definition.description,
        definitionHash: definitionHash(definition),
        version: known?.version ?? '',
        kind: 'ai-feedback',
        weightsHash: known?.judgeHash ?? '',
        minimum: 0,
        maximum: 1,
        higherIsBetter: definition.direction === 'higher',
        framesSampled: 0,
        fpsExpected: 0,
        judge: definition.judge,
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
    // A judge that is away does not keep the reward from being asked for: its callers hear what is wrong.
    ready: () => watching,
    close: () => {
      closed.abort();
      clearTimeout(timer);
      return Promise.resolve();
    },
  };
}

function stateOf(
  judge: JudgeInfo | undefined,
  name: string,
  endpoints: readonly EndpointInfo[],
): RewardState {
  if (judge === undefined) return { serving: false, reason: `the judge service has no judge '${name}'` };
  if (judge.mode === JudgeMode.COMPARE) {
    return { serving: false, reason: `judge '${name}' compares clips; a reward needs mode binary or grade` };
  }
  if (judge.problem !== '') return { serving: false, reason: `judge '${name}': ${judge.problem}` };
  const down = new Set(endpoints.filter((one) => one.state === EndpointState.DOWN).map((one) => one.name));
  if (judge.endpoints.length > 0 && judge.endpoints.every((endpoint) => down.has(endpoint))) {
    return {
      serving: false,
      reason: `judge '${name}': its endpoint ${judge.endpoints.join(', ')} fails all calls and is left alone for a while`,
    };
  }
  return { serving: true };
}

/** A judge that is there and may not be asked: waiting does not change it. One that is away is asked, and says so itself. */
function throwUnusable(judge: JudgeInfo, reason: string): void {
  if (judge.mode === JudgeMode.COMPARE) {
    throw failedPrecondition(`${reason}; name another one in the reward's definition`, {
      reason: 'JUDGE_MISCONFIGURED',
    });
  }
}

function toScore(verdict: Verdict): ScoreValue {
  const { answer, probability } = verdict;
  return {
    value: valueOf(verdict),
    details: {
      ...(probability === undefined ? {} : { probability }),
      ...(answer.case === 'grade' ? { grade: answer.value } : {}),
    },
    reason: verdict.reason,
    failureMode: verdict.failureMode,
    checks: verdict.checks,
    version: verdict.judgeVersion,
    weightsHash: verdict.judgeHash,
    rubricHash: verdict.rubricHash,
    cached: verdict.cached,
  };
}

function valueOf({ answer, probability, score, threshold }: Verdict): number {
  if (answer.case === 'accept') return answer.value ? 1 : 0;
  // The mean of the votes' grades, or the P(accept) that a calibration makes of it: finer than the grade itself.
  if (answer.case === 'grade') return gradedValue(probability ?? score, threshold);
  throw unanswered('a verdict without an answer');
}

function unanswered(what: string): PlumbError {
  return unavailable(`the judge service gave ${what}; its version may not fit this one`, {
    reason: 'REWARD_FAILED',
  });
}
