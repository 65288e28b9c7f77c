/** Items of requests and tasks as the domain wants them. */

import { videoHash } from '@plumb/media';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { Prompt } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import type { ScoringItem } from '../domain/reward-scorer.ts';
import type { ClipReader } from './clip-reader.ts';

/** What an item is made of. */
export interface ItemSource {
  readonly video: Video;
  readonly prompt: Prompt;
  readonly runId: string;
  /** Path of the video in its request, for errors. */
  readonly field: string;
  readonly signal: AbortSignal;
  readonly deadline: Date | undefined;
  /** Nothing learns from the scores. */
  readonly evaluation?: boolean;
}

/**
 * An item whose clip is read when a reward asks for it.
 *
 * @throws PlumbError INVALID_ARGUMENT if inline bytes have another hash than the one given
 */
export function scoringItem(source: ItemSource, clips: ClipReader): ScoringItem {
  const { video, prompt, runId, field, signal, deadline, evaluation = false } = source;
  const clipHash = videoHash(video, field);
  return {
    video,
    prompt,
    runId,
    signal,
    deadline,
    evaluation,
    clipHash,
    clip: () => clips.read(video, clipHash, field, signal),
    clipBytes: 3 * video.width * video.height * video.frameCount || undefined,
  };
}
