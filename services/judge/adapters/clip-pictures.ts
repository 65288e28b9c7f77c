/** Frames of a clip, as a judge wants to see them. */

import {
  clipMediaType,
  encodeFrames,
  encodeGrid,
  isFilmStrip,
  readVideo,
  readVideoBytes,
  sampleFrames,
  sampleFramesByMotion,
  videoHash,
} from '@plumb/media';
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
    async pictures({ definition: { frames, image } }) {
      const { layout, columns, scale, format, quality, longestSide } = image;
      const size = longestSide === undefined ? {} : { longestSide };
      const native = scale === 1 && Math.max(width, height) <= (longestSide ?? Infinity);
      const strip = layout === 'grid' && columns === 1 && frames.count >= frameCount;
      if (strip && native && format === 'png' && mediaType === clipMediaType) {
        const bytes = await readVideoBytes(video, artifacts, field);
        // The clip as it is stored is the very picture that is wanted.
        if (isFilmStrip(bytes, { frames: frameCount, height, width, fps })) {
          const picture = { mediaType: 'image/png' as const, bytes, width, height: height * frameCount };
          return { pictures: [picture], frames: frameCount, grid: { columns: 1, rows: frameCount } };
        }
      }
      const clip = await readVideo(video, artifacts, field);
      const indices =
        frames.sampling === 'motion'
          ? sampleFramesByMotion(clip, frames.count)
          : sampleFrames(clip, frames.count);
      const options = { scale, format, quality, ...size };
      if (layout === 'sequence') {
        return { pictures: await encodeFrames(clip, indices, options), frames: indices.length };
      }
      const across = Math.min(columns, indices.length);
      return {
        pictures: [await encodeGrid(clip, indices, across, options)],
        frames: indices.length,
        grid: { columns: across, rows: Math.ceil(indices.length / across) },
      };
    },
  };
}
