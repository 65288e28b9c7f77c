import { Category } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import type { Sample, SampleScore } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Film } from './film.ts';

export const categoryNames: Readonly<Record<Category, string>> = {
  [Category.UNSPECIFIED]: '',
  [Category.OBJECT_REMOVAL]: 'Object removal',
  [Category.MULTIPLE_OBJECTS]: 'Multiple objects',
  [Category.DEFORMABLE_OBJECT]: 'Deformable object',
  [Category.DIRECTIONAL_MOVEMENT]: 'Directional movement',
  [Category.FALLING_DOWN]: 'Falling down',
};

export type VerdictWord = 'accepted' | 'rejected' | 'error' | 'pending';

/** What the evaluation's reward says of a sample. */
export function verdictOf(sample: Sample, reward: string): VerdictWord {
  if (sample.error !== undefined) return 'error';
  const outcome = scoreOf(sample, reward)?.outcome;
  if (outcome?.case === 'error') return 'error';
  if (outcome?.case !== 'value') return 'pending';
  return outcome.value >= 0.5 ? 'accepted' : 'rejected';
}

export function scoreOf(sample: Sample, reward: string): SampleScore | undefined {
  return sample.scores.find((score) => score.reward === reward);
}

/** The clip of a sample as it is played; undefined while there is none, or none that a browser is shown. */
export function filmOf(sample: Sample): Film | undefined {
  const { video, clipUrl } = sample;
  if (video === undefined || clipUrl === '') return undefined;
  return {
    url: clipUrl,
    mediaType: video.mediaType,
    width: video.width,
    height: video.height,
    frames: video.frameCount,
    fps: video.fps,
  };
}

/** A failure mode as words. */
export function modeWords(mode: string): string {
  return mode.replaceAll('_', ' ');
}
