/** Reads and decodes clips, each once for all rewards that ask for it at about the same time. */

import { availableParallelism } from 'node:os';
import { LRUCache } from 'lru-cache';
import PQueue from 'p-queue';
import { artifactsOnly, clipBytes, decodeVideo, isMovie, readVideoBytes } from '@plumb/media';
import type { ArtifactSource, Clip, ClipLimits } from '@plumb/media';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';

/** Decoded clips that are remembered, in bytes: 256 MiB. */
const rememberedBytes = 2 ** 28;
/** Clips above this size, decoded, and those of unknown size are decoded one at a time: 32 MiB. */
const largestTogether = 2 ** 25;
/** Clips that are fetched at a time from the artifact store, and as many from allowed prefixes. */
const fetchedAtATime = 16;

/** A reader of clips. */
export interface ClipReader {
  readonly source: ArtifactSource;
  readonly limits: ClipLimits;
  /**
   * @param hash SHA-256 of the encoded bytes
   * @param field path of the video in its request, for errors
   * @param signal ends the wait; the work ends when nobody waits for it any more
   * @throws PlumbError as readVideo; the signal's reason
   */
  read(video: Video, hash: string, field: string, signal: AbortSignal): Promise<Clip>;
}

interface Reading {
  readonly clip: Promise<Clip>;
  readonly abort: AbortController;
  readers: number;
}

/** A reader that remembers what it decoded last. */
export function createClipReader(source: ArtifactSource, limits: ClipLimits): ClipReader {
  const known = new LRUCache<string, Clip>({ maxSize: rememberedBytes, sizeCalculation: clipBytes });
  const reading = new Map<string, Reading>();
  // Lanes of their own: a host that is slow holds nobody who reads from elsewhere, a large clip nobody who has a small one.
  const artifacts = new PQueue({ concurrency: fetchedAtATime });
  const prefixes = new PQueue({ concurrency: fetchedAtATime });
  const small = new PQueue({ concurrency: availableParallelism() });
  const large = new PQueue({ concurrency: 1 });

  async function bytesOf(video: Video, field: string, signal: AbortSignal): Promise<Uint8Array> {
    const read = (): Promise<Uint8Array> => readVideoBytes(video, source, field, limits, signal);
    if (video.source.case !== 'uri') return read();
    const lane = artifactsOnly(video.source.value) === undefined ? artifacts : prefixes;
    return lane.add(read, { signal });
  }

  async function load(video: Video, field: string, signal: AbortSignal): Promise<Clip> {
    const bytes = await bytesOf(video, field, signal);
    const decode = (): Promise<Clip> => decodeVideo(bytes, video, field, limits, signal);
    // ffmpeg has a lane itself.
    if (isMovie(video.mediaType)) return decode();
    const size = 3 * video.width * video.height * video.frameCount;
    return (size > 0 && size <= largestTogether ? small : large).add(decode, { signal });
  }

  function start(key: string, video: Video, field: string): Reading {
    const abort = new AbortController();
    const clip = load(video, field, abort.signal).then((loaded) => {
      known.set(key, loaded);
      return loaded;
    });
    const started: Reading = { clip, abort, readers: 0 };
    const end = (): void => {
      if (reading.get(key) === started) reading.delete(key);
    };
    clip.then(end, end);
    reading.set(key, started);
    return started;
  }

  return {
    source,
    limits,
    async read(video, hash, field, signal) {
      signal.throwIfAborted();
      const { mediaType, width, height, frameCount, fps } = video;
      const key = [hash, mediaType, width, height, frameCount, fps].join(' ');
      const found = known.get(key);
      if (found !== undefined) return found;
      const shared = reading.get(key) ?? start(key, video, field);
      shared.readers += 1;
      const left = Promise.withResolvers<never>();
      const leave = (): void => left.reject(signal.reason);
      signal.addEventListener('abort', leave, { once: true });
      try {
        return await Promise.race([shared.clip, left.promise]);
      } finally {
        signal.removeEventListener('abort', leave);
        shared.readers -= 1;
        if (shared.readers === 0) {
          // Whoever comes now starts anew; after the end this does nothing.
          if (reading.get(key) === shared) reading.delete(key);
          shared.abort.abort(signal.reason);
        }
      }
    },
  };
}
