import { fromStatus, PlumbError } from '@plumb/kit/errors';
import type { RpcClient } from '@plumb/kit/rpc';
import { clipMediaType, encodeClip, maxInlineClipBytes } from '@plumb/media';
import type { Clip } from '@plumb/media';
import { ValueRange, VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { Priority } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { RewardOutcome, RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { create } from '@bufbuild/protobuf';
import type { ScoreClips } from '../domain/probe.ts';
import type { ArtifactStore } from '@plumb/media';

/** Longest wait for a reward service that cannot be reached, in milliseconds. */
const longestConnectMs = 60_000;

/**
 * Scores the clips of probes with the Reward API. Clips travel in the message where they fit: nobody needs them
 * afterwards. Larger ones go through the artifact store.
 */
export function rewardScores(
  client: RpcClient<typeof RewardService>,
  artifacts: Pick<ArtifactStore, 'put'>,
  options: { readonly deadlineMs: number },
): ScoreClips {
  return async (clips, rewards, { runId, signal }) => {
    async function* requests() {
      for (const { id, prompt, clip } of clips) {
        yield {
          item: { id, prompt, video: await videoOf(clip, artifacts) },
          rewards: [...rewards],
          // The training waits for it.
          priority: Priority.INTERACTIVE,
          runId,
        };
      }
    }
    // A reward service that restarts is waited for, but not for as long as scoring may take.
    await client.ready({ signal, deadlineMs: Math.min(options.deadlineMs, longestConnectMs) });
    const found = new Map<string, ReadonlyMap<string, number | PlumbError>>();
    const answers = client.scoreStream(requests(), { signal, deadlineMs: options.deadlineMs });
    for await (const { item } of answers) {
      if (item === undefined) continue;
      found.set(item.id, new Map(item.outcomes.map((outcome) => [outcome.reward, valueOf(outcome)])));
    }
    return found;
  };
}

/** A score, or why there is none; a value that is not finite is an error too. */
function valueOf({ reward, outcome }: RewardOutcome): number | PlumbError {
  if (outcome.case === 'score' && Number.isFinite(outcome.value.value)) return outcome.value.value;
  if (outcome.case === 'error' && outcome.value.status !== undefined) return fromStatus(outcome.value.status);
  return new PlumbError({
    code: 'INTERNAL',
    reason: 'REWARD_FAILED',
    message: `${reward} gave ${outcome.case === 'score' ? outcome.value.value : 'neither a score nor an error'}`,
  });
}

async function videoOf(clip: Clip, artifacts: Pick<ArtifactStore, 'put'>): Promise<Video> {
  const bytes = await encodeClip(clip);
  const stored =
    bytes.length <= maxInlineClipBytes ? undefined : await artifacts.put(bytes, { mediaType: clipMediaType });
  return create(VideoSchema, {
    source: stored === undefined ? { case: 'inline', value: bytes } : { case: 'uri', value: stored.uri },
    sha256: stored?.sha256 ?? '',
    mediaType: clipMediaType,
    width: clip.width,
    height: clip.height,
    frameCount: clip.frames,
    fps: clip.fps,
    valueRange: ValueRange.UINT8,
  });
}
