import { PlumbError } from '@plumb/kit/errors';
import type { RpcClient } from '@plumb/kit/rpc';
import { Purpose } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type { JudgeInfo, JudgeService, Verdict } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type { JudgedLabel } from './calibration-report.ts';
import { categoryOf } from './labelled-set.ts';
import type { LabelledClip, LabelledSet } from './labelled-set.ts';

/** Verdicts that are asked for at a time. */
const atATime = 32;

/** Verdicts on a labelled set. */
export interface JudgedSet {
  readonly labels: readonly JudgedLabel[];
  /** Clips without a verdict. */
  readonly failed: number;
  /** Money and tokens of all verdicts, also of those that were kept from before. */
  readonly cost: number;
  readonly currency: string;
  readonly tokens: number;
}

/**
 * Has every clip of a set judged.
 *
 * @param failedClip told of each clip that could not be judged, with its place in the set
 * @throws PlumbError where no clip can be judged, such as JUDGE_UNKNOWN, JUDGE_MISCONFIGURED or JUDGE_UNAVAILABLE
 */
export async function judgeLabels(
  judge: RpcClient<typeof JudgeService>,
  info: JudgeInfo,
  set: LabelledSet,
  signal: AbortSignal | undefined,
  failedClip: (place: number, error: PlumbError) => void,
): Promise<JudgedSet> {
  const labels = new Map<number, JudgedLabel>();
  const totals = { failed: 0, cost: 0, currency: '', tokens: 0 };
  const queue = set.clips.entries();
  const work = async (): Promise<void> => {
    for (const [place, clip] of queue) {
      signal?.throwIfAborted();
      try {
        const verdict = await judgeOne(judge, info.name, clip, signal);
        labels.set(place, labelOf(clip, verdict, info));
        totals.cost += verdict.cost?.amount ?? 0;
        totals.currency = verdict.cost?.currency ?? '';
        totals.tokens += Number((verdict.usage?.inputTokens ?? 0n) + (verdict.usage?.outputTokens ?? 0n));
      } catch (error) {
        const known = PlumbError.from(error);
        // These two are about one clip; anything else is about all of them.
        if (known.reason !== 'JUDGE_ANSWER_INVALID' && known.reason !== 'JUDGE_REQUEST_REJECTED') throw known;
        totals.failed += 1;
        failedClip(place, known);
      }
    }
  };
  await Promise.all(Array.from({ length: atATime }, work));
  // In the order of the set, whichever was judged first, so that folds and intervals are always the same.
  const ordered = [...labels].toSorted(([a], [b]) => a - b).map(([, label]) => label);
  return { labels: ordered, ...totals };
}

async function judgeOne(
  judge: RpcClient<typeof JudgeService>,
  name: string,
  { prompt, category, clip }: LabelledClip,
  signal: AbortSignal | undefined,
): Promise<Verdict> {
  const { video } = await clip();
  const { verdict } = await judge.judge(
    {
      judge: name,
      video,
      prompt: { text: prompt, ...(category === undefined ? {} : { category: categoryOf[category] }) },
      purpose: Purpose.EVALUATION,
    },
    signal === undefined ? {} : { signal },
  );
  if (verdict === undefined) throw new TypeError('the judge service gave no verdict');
  return verdict;
}

function labelOf(clip: LabelledClip, verdict: Verdict, info: JudgeInfo): JudgedLabel {
  const { answer, score, probability } = verdict;
  return {
    prompt: clip.prompt,
    category: clip.category ?? 'none',
    truth: clip.accept,
    accept: answer.case === 'accept' ? answer.value : (probability ?? score) >= info.threshold,
    score,
    failureMode: clip.failureMode,
  };
}
