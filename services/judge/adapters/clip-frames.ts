/** Frames of a clip, as a judge wants to see them. */

import { encodeFrames, readVideo, sampleFrames, videoHash } from '@plumb/media';
import type { ArtifactSource } from '@plumb/media';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { JudgedClip } from '../domain/judging.ts';

/**
 * A clip of a request. Its bytes are read when frames are asked for, which a kept verdict does not do.
 *
 * @param field Path of the video in its request, for errors.
 * @throws PlumbError INVALID_ARGUMENT if inline bytes have another hash than the one given.
 */
export function judgedClip(video: Video, artifacts: ArtifactSource, field: string): JudgedClip {
  const { mediaType, width, height, frameCount, fps } = video;
  return {
    identity: { sha256: videoHash(video, field), mediaType, width, height, frameCount, fps },
    async frames({ definition }) {
      const clip = await readVideo(video, artifacts, field);
      const indices = sampleFrames(clip, definition.frames.count, definition.frames.sampling);
      const frames = await encodeFrames(clip, indices, { scale: definition.image.scale });
      return frames.map((bytes) => ({ mediaType: 'image/png', bytes }));
    },
  };
}
