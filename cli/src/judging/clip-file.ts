import { readFile } from 'node:fs/promises';
import { extname } from 'node:path';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { invalidArgument } from '@plumb/kit/errors';
import { clipMediaType, encodeClip, maxInlineClipBytes } from '@plumb/media';
import { ValueRange } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { sampleTrainingClip } from '@plumb/toybox';
import type { Category, TrainingClip } from '@plumb/toybox';

/** A clip as it is sent, with what is known of it. */
export interface ReadClip {
  readonly video: MessageInitShape<typeof VideoSchema>;
  /** Set for clips of the toybox. */
  readonly made?: Pick<TrainingClip, 'caption' | 'wrongness'> & { readonly category: Category };
}

const mediaTypes: Readonly<Record<string, string>> = {
  '.png': clipMediaType,
  '.webp': 'image/webp',
  '.gif': 'image/gif',
  '.apng': 'image/apng',
  '.mp4': 'video/mp4',
  '.webm': 'video/webm',
};

/**
 * A clip of a file (an animation, a video, or a PNG film strip with its number of frames), or `toybox:<seed>`, a clip of the
 * toybox.
 *
 * @param frames of a film strip
 * @throws PlumbError INVALID_ARGUMENT for a file that is no clip or too large; the system's error if it cannot be read
 */
export async function readClip(name: string, frames: number | undefined): Promise<ReadClip> {
  const seed = /^toybox:(\d{1,9})$/.exec(name)?.[1];
  if (seed !== undefined) return toyboxClip(Number(seed));
  const mediaType = mediaTypes[extname(name).toLowerCase()];
  if (mediaType === undefined) {
    throw invalidArgument(
      'clip',
      `'${name}' is neither a file that ends in ${Object.keys(mediaTypes).join(', ')} nor toybox:<seed>`,
    );
  }
  const bytes = await readFile(name);
  if (bytes.length > maxInlineClipBytes) {
    throw invalidArgument(
      'clip',
      `'${name}' has ${bytes.length} bytes; at most ${maxInlineClipBytes} are sent`,
    );
  }
  const video = { source: { case: 'inline' as const, value: new Uint8Array(bytes) }, mediaType };
  if (mediaType !== clipMediaType) return { video };
  if (frames === undefined) {
    throw invalidArgument('--frames', `is missing; say how many frames the film strip '${name}' holds`);
  }
  // The size stands in the first chunk (PNG, third edition, section 11.2.1).
  const [width, height] = bytes.length < 24 ? [0, 0] : [bytes.readUInt32BE(16), bytes.readUInt32BE(20)];
  if (height === 0 || height % frames !== 0) {
    throw invalidArgument(
      '--frames',
      `is ${frames}, which does not divide the height of '${name}', ${height} pixels`,
    );
  }
  return {
    video: {
      ...video,
      width,
      height: height / frames,
      frameCount: frames,
      fps: 8,
      valueRange: ValueRange.UINT8,
    },
  };
}

async function toyboxClip(seed: number): Promise<ReadClip> {
  const { caption, category, clip, wrongness } = sampleTrainingClip(seed);
  const { width, height, frames: frameCount, fps } = clip;
  return {
    made: { caption, category, wrongness },
    video: {
      source: { case: 'inline', value: await encodeClip(clip) },
      mediaType: clipMediaType,
      width,
      height,
      frameCount,
      fps,
      valueRange: ValueRange.UINT8,
    },
  };
}
