import { createHash } from 'node:crypto';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { clipMediaType, encodeClip } from '@plumb/media';
import { ValueRange } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { sampleTrainingClip } from '@plumb/toybox';
import { referee } from '@plumb/toybox/referee';

/** A clip of the toybox with what the referee says of it, asked without any network. */
export interface JudgedSample {
  readonly id: string;
  readonly prompt: { readonly text: string };
  /** The clip inline, 24 pixels wide. */
  readonly video: MessageInitShape<typeof VideoSchema>;
  /** Of the clip's bytes. */
  readonly sha256: string;
  readonly accept: boolean;
}

/** Clips of the pretraining distribution, right and wrong ones. */
export async function judgedSamples(count: number): Promise<JudgedSample[]> {
  return Promise.all(Array.from({ length: count }, (_, seed) => judgedSample(seed)));
}

async function judgedSample(seed: number): Promise<JudgedSample> {
  const { caption, clip } = sampleTrainingClip(seed);
  const bytes = await encodeClip(clip);
  const { width, height, frames: frameCount, fps } = clip;
  return {
    id: `sample-${seed}`,
    prompt: { text: caption },
    sha256: createHash('sha256').update(bytes).digest('hex'),
    accept: referee(clip, caption).accept,
    video: {
      source: { case: 'inline', value: bytes },
      mediaType: clipMediaType,
      width,
      height,
      frameCount,
      fps,
      valueRange: ValueRange.UINT8,
    },
  };
}
