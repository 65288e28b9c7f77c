import { z } from 'zod';

const positive = z.int().min(1);

/** What fixes a video model besides its weights. Stored in the metadata of its safetensors file. */
export const videoModelConfigSchema = z
  .strictObject({
    format: z.literal(1),
    /** Name of the line of models, the part of a version before the `@`. */
    name: z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/),
    architecture: z.literal('video-dit'),
    video: z.strictObject({
      frames: positive.max(1024),
      height: positive.max(4096),
      width: positive.max(4096),
      /** Frames a second. */
      fps: z.number().positive(),
    }),
    /** Model value = (pixel / 255 - mean) * scale: the background near 0. */
    pixels: z.strictObject({ mean: z.number().min(0).max(1), scale: z.number().positive() }),
    /** Size of one token in frames and pixels. */
    patch: z.strictObject({ frames: positive, height: positive, width: positive }),
    hiddenSize: positive.max(16_384),
    depth: positive.max(256),
    heads: positive.max(256),
    mlpRatio: z.number().positive(),
    caption: z.strictObject({
      /** Words that the model knows. Token i + 1 is vocabulary[i]; token 0 is padding and the empty caption. */
      vocabulary: z.array(z.string().regex(/^[a-z]+$/)).min(1),
      /** Longest caption in words. */
      maxWords: positive.max(512),
      wordWidth: positive.max(4096),
    }),
    /** What the network's output stands for. */
    parameterisation: z.enum(['flow', 'v', 'epsilon']),
    /** Standard deviation of the model values of clips; used to precondition the network's input and output. */
    sigmaData: z.number().positive(),
  })
  .superRefine((config, context) => {
    for (const side of ['frames', 'height', 'width'] as const) {
      if (config.video[side] % config.patch[side] !== 0) {
        context.addIssue({
          code: 'custom',
          path: ['patch', side],
          message: `must divide video.${side} (${config.video[side]})`,
        });
      }
    }
    if (config.hiddenSize % (2 * config.heads) !== 0) {
      context.addIssue({ code: 'custom', path: ['hiddenSize'], message: 'must be a multiple of 2 * heads' });
    }
    if (new Set(config.caption.vocabulary).size !== config.caption.vocabulary.length) {
      context.addIssue({
        code: 'custom',
        path: ['caption', 'vocabulary'],
        message: 'must not repeat a word',
      });
    }
  });

export type VideoModelConfig = z.infer<typeof videoModelConfigSchema>;

/** Tokens of a clip along time, height and width. */
export function tokenGrid(config: VideoModelConfig): readonly [number, number, number] {
  return [
    config.video.frames / config.patch.frames,
    config.video.height / config.patch.height,
    config.video.width / config.patch.width,
  ];
}

/** Shape of a batch of clips in the model: [batch, 3, frames, height, width]. */
export function clipShape(
  config: VideoModelConfig,
  batch: number,
): readonly [number, 3, number, number, number] {
  return [batch, 3, config.video.frames, config.video.height, config.video.width];
}

/** Numbers in one clip. */
export function clipSize(config: VideoModelConfig): number {
  return 3 * config.video.frames * config.video.height * config.video.width;
}
