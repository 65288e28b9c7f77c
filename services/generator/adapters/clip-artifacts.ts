import { create } from '@bufbuild/protobuf';
import type { SampledClip } from '@plumb/diffusion';
import { invalidArgument } from '@plumb/kit/errors';
import {
  clipMediaType,
  encodeClip,
  encodeMovie,
  encodePreview,
  movieMediaType,
  previewMediaType,
} from '@plumb/media';
import { latentsMediaType } from '@plumb/media/model-media-types';
import { ArtifactSchema, ValueRange, VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { Artifact, Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { writeSafetensors } from '@plumb/tensor-graph/safetensors';
import PQueue from 'p-queue';
import type { ClipStore } from '../domain/generation.ts';

/** The part of an artifact store that storing a clip needs. */
export interface ArtifactSink {
  put(
    bytes: Uint8Array,
    options: { mediaType: string },
  ): Promise<{ uri: string; sha256: string; size: number }>;
}

/** Where a clip lies. */
export interface StoredClip {
  /** The film strip, lossless: what is scored and trained on. */
  readonly video: Video;
  /** Animated, for people. */
  readonly preview: Artifact;
  /** What the decoder made the clip of, where that was asked for. */
  readonly latents?: Artifact;
}

/** Widest preview that a small clip is enlarged to, in pixels. */
const widestEnlargement = 512;

/**
 * Encodes clips and puts them into the artifact store.
 * @param concurrency clips that are encoded at a time, so that encoding does not take the cores from sampling
 */
export function clipArtifacts(
  artifacts: ArtifactSink,
  options: {
    readonly concurrency: number;
    readonly previewScale: number;
    readonly previewFormat: 'webp' | 'mp4';
  },
): ClipStore<StoredClip> {
  const queue = new PQueue({ concurrency: options.concurrency });
  const previewOf = (clip: SampledClip): Promise<Uint8Array> => {
    if (options.previewFormat === 'mp4') return encodeMovie(clip);
    const scale = Math.max(1, Math.min(options.previewScale, Math.floor(widestEnlargement / clip.width)));
    return encodePreview(clip, { scale, format: 'webp' });
  };
  const put = async (bytes: Uint8Array, mediaType: string): Promise<Artifact> => {
    const { uri, sha256, size } = await artifacts.put(bytes, { mediaType });
    return create(ArtifactSchema, { uri, sha256, mediaType, sizeBytes: BigInt(size) });
  };
  return {
    put: (clip, { storeLatents }) =>
      queue.add(async () => {
        if (storeLatents && clip.latents === undefined) {
          throw invalidArgument(
            'store_latents',
            'is set, but the model works on pixels and has no latents; its clips are what it trains on',
          );
        }
        const [film, picture] = await Promise.all([encodeClip(clip), previewOf(clip)]);
        const [video, preview, latents] = await Promise.all([
          put(film, clipMediaType),
          put(picture, options.previewFormat === 'mp4' ? movieMediaType : previewMediaType),
          storeLatents && clip.latents !== undefined
            ? put(writeSafetensors(new Map([['latents', clip.latents]])), latentsMediaType)
            : undefined,
        ]);
        return {
          video: create(VideoSchema, {
            source: { case: 'uri', value: video.uri },
            sha256: video.sha256,
            mediaType: clipMediaType,
            width: clip.width,
            height: clip.height,
            frameCount: clip.frames,
            fps: clip.fps,
            valueRange: ValueRange.UINT8,
          }),
          preview,
          ...(latents === undefined ? {} : { latents }),
        };
      }),
  };
}
