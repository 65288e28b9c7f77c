import type { LabelledSample } from '@plumb/objective';
import { isNoisy, wellBehaved } from '@plumb/toybox';
import type { Category } from '@plumb/toybox';
import type { FeedbackForm } from './recipes.ts';
import type { Arm, ScoredClip } from './records.ts';
import { judgeRewards } from './spec.ts';

/** What the values of a reward are like; the control counts as binary, its labels are not looked at. */
export function formOf(reward: string | undefined): FeedbackForm {
  if (reward === judgeRewards.graded) return 'graded';
  return reward === undefined || reward === judgeRewards.binary ? 'binary' : 'metric';
}

/**
 * What an arm's reward says of a clip. A noisy judge errs about the same clips in every arm of its noise, as the referee's
 * endpoint does when its model's name asks for noise.
 */
export function feedbackOn(
  clip: ScoredClip,
  { reward, judgeNoise = 0 }: Pick<Arm, 'reward' | 'judgeNoise'>,
  seed: number,
): number {
  const form = formOf(reward);
  if (form === 'metric') return clip.values[reward ?? ''] ?? Number.NaN;
  const wrong =
    judgeNoise > 0 &&
    isNoisy(
      { ...wellBehaved, noiseRate: judgeNoise, seed },
      `${clip.promptId}/${clip.sha256}`,
      clip.category as Category,
      clip.accept,
    );
  if (form === 'graded') return wrong ? clip.wrongGrade : clip.grade;
  return clip.accept === wrong ? 0 : 1;
}

/** The id of a clip within its group. */
export function sampleIdOf({ promptId, index }: Pick<ScoredClip, 'promptId' | 'index'>): string {
  return `${promptId}#${index}`;
}

/** The samples of a group with an arm's labels, for the data step. */
export function labelledBy(
  arm: Pick<Arm, 'reward' | 'judgeNoise'>,
  clips: readonly ScoredClip[],
  seed: number,
): LabelledSample[] {
  return clips.map((clip) => ({
    sampleId: sampleIdOf(clip),
    promptId: clip.promptId,
    category: clip.category,
    reward: feedbackOn(clip, arm, seed),
  }));
}
