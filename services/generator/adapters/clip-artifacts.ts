import { create } from '@bufbuild/protobuf';
import { clipMediaType, encodeClip, encodePreview, previewMediaType } from '@plumb/media';
import type { Clip } from '@plumb/media';
import { ArtifactSchema, ValueRange, VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { Artifact, Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
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
}

/**
 * Encodes clips and puts them into the artifact store.
 * @param concurrency clips that are encoded at a time, so that encoding does not take the cores from sampling
 */
export function clipArtifacts(
  artifacts: ArtifactSink,
  options: { readonly concurrency: number; readonly previewScale: number },
): ClipStore<StoredClip> {
  const queue = new PQueue({ concurrency: options.concurrency });
  return {
    put: (clip: Clip) =>
      queue.add(async () => {
        const [film, picture] = await Promise.all([
          encodeClip(clip),
          encodePreview(clip, { scale: options.previewScale, format: 'webp' }),
        ]);
        const [video, preview] = await Promise.all([
          artifacts.put(film, { mediaType: clipMediaType }),
          artifacts.put(picture, { mediaType: previewMediaType }),
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
          preview: create(ArtifactSchema, {
            uri: preview.uri,
            sha256: preview.sha256,
            mediaType: previewMediaType,
            sizeBytes: BigInt(preview.size),
          }),
        };
      }),
  };
}
