/**
 * The referee: a rule-based stand-in for a vision-language model. It sees pixels and a caption, nothing of how a clip
 * was made, and answers the question a judge is asked: does the clip show what the caption says, the way the real world
 * would have it?
 */
import { checkClip } from '@plumb/media';
import type { Clip } from '@plumb/media';
import { invalidArgument } from '@plumb/kit/errors';
import { parseCaption } from './captions.ts';
import { judgeMotion } from './motion-rules.ts';
import { checkPicture } from './picture-checks.ts';
import type { PictureChecks } from './picture-checks.ts';
import { segment } from './segmentation.ts';
import { trackObject } from './tracking.ts';
import type { FailureMode, MotionCheck } from './verdict.ts';

export { failureModes } from './verdict.ts';
export type { Check, FailureMode, MotionCheck } from './verdict.ts';
export type { PictureChecks } from './picture-checks.ts';

/** What the referee says of a clip. */
export type RefereeVerdict = {
  readonly accept: boolean;
  /** One sentence: what was seen, or the first thing that is wrong. */
  readonly reason: string;
  /** Null when the clip is accepted. */
  readonly failureMode: FailureMode | null;
  readonly checks: { readonly motion: MotionCheck; readonly picture: PictureChecks };
};

/** Smallest picture, in pixels, and shortest clip, in frames, that can be judged. */
const smallest = { side: 16, frames: 4 } as const;

/**
 * Judges a clip by its pixels. Pixel noise of standard deviation 0.04 (on the 0..1 scale) and soft edges do not change
 * the verdict. Pure: the same clip and caption always give the same verdict.
 *
 * @param clip square, at least 16 pixels wide and 4 frames long, over the 7/8 s that the toybox's clips cover
 * @throws PlumbError INVALID_ARGUMENT for a caption outside the grammar (naming the unknown word) or a clip that cannot be
 * judged (naming the field)
 */
export function referee(clip: Clip, caption: string): RefereeVerdict {
  const event = parseCaption(caption);
  checkClip(clip);
  if (clip.width !== clip.height || clip.width < smallest.side) {
    throw invalidArgument(
      'clip',
      `is ${clip.width}x${clip.height}; the referee judges square clips of ${smallest.side} pixels or more`,
    );
  }
  if (clip.frames < smallest.frames) {
    throw invalidArgument('clip.frames', `is ${clip.frames}; the referee needs ${smallest.frames} or more`);
  }
  const frames = segment(clip);
  const named = [event.object, ...('other' in event ? [event.other] : [])];
  const tracks = named.map((object) => trackObject(frames, object));
  const picture = checkPicture(event, frames, tracks);
  const motion = judgeMotion(event, frames, tracks);
  const bad = Object.entries(picture).find(([, check]) => !check.pass);
  if (motion.pass && bad === undefined) {
    return { accept: true, reason: motion.reason, failureMode: null, checks: { motion, picture } };
  }
  const countFails = !picture.count.pass;
  const [failureMode, reason]: [FailureMode, string] = !motion.pass
    ? [motion.failureMode ?? 'other', motion.reason]
    : [countFails ? 'wrong_count' : 'picture', countFails ? picture.count.reason : (bad?.[1].reason ?? '')];
  return { accept: false, reason, failureMode, checks: { motion, picture } };
}
