/** Reads and decodes clips, each once for all rewards that ask for it at about the same time. */

import { LRUCache } from 'lru-cache';
import { clipBytes, readVideo } from '@plumb/media';
import type { ArtifactSource, Clip, ClipLimits } from '@plumb/media';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';

/** Decoded clips that are remembered, in bytes: 256 MiB. */
const rememberedBytes = 2 ** 28;

/** A reader of clips. */
export interface ClipReader {
  readonly source: ArtifactSource;
  readonly limits: ClipLimits;
  /**
   * @param hash SHA-256 of the encoded bytes
   * @param field path of the video in its request, for errors
   * @throws PlumbError as readVideo
   */
  read(video: Video, hash: string, field: string): Promise<Clip>;
}

/** A reader that remembers what it decoded last. */
export function createClipReader(source: ArtifactSource, limits: ClipLimits): ClipReader {
  const known = new LRUCache<string, Clip>({ maxSize: rememberedBytes, sizeCalculation: clipBytes });
  const reading = new Map<string, Promise<Clip>>();
  return {
    source,
    limits,
    async read(video, hash, field) {
      const { mediaType, width, height, frameCount, fps } = video;
      const key = [hash, mediaType, width, height, frameCount, fps].join(' ');
      const found = known.get(key);
      if (found !== undefined) return found;
      const running = reading.get(key);
      if (running !== undefined) return running;
      const started = readVideo(video, source, field, limits);
      reading.set(key, started);
      try {
        const clip = await started;
        known.set(key, clip);
        return clip;
      } finally {
        reading.delete(key);
      }
    },
  };
}

/** Most bytes that a clip takes when it is decoded. */
export function decodedBytes({ width, height, frameCount }: Video, limits: ClipLimits): number {
  const pixels = width * height * frameCount;
  // A file that says its own shape may be as large as is allowed.
  return 3 * (pixels > 0 ? Math.min(pixels, limits.maxPixels) : limits.maxPixels);
}
