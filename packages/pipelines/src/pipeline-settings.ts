import { z } from 'zod';

/**
 * plumb.json: what a diffusers folder does not say because diffusers takes it as arguments of a call. The graphs are
 * exported for this size.
 */
export const pipelineSettingsSchema = z.strictObject({
  /** Name of the line of models, as in `wan-1.3b@0123456789ab`. */
  name: z
    .string()
    .regex(/^[a-z0-9][a-z0-9._-]{0,62}$/, { error: 'must be 1 to 63 of a-z, 0-9, dot, dash and underscore' }),
  /** Pixels. */
  width: z.int().min(8).max(8192),
  /** Pixels. */
  height: z.int().min(8).max(8192),
  frames: z.int().min(1).max(4096),
  /** Frames a second, of the clips and where the denoiser is told of it. */
  fps: z.number().positive().max(240),
  /** Tokens of a prompt; longer prompts are cut. */
  maxTextTokens: z.int().min(1).max(4096),
  /** Steps and guidance that the model's makers recommend; golden samples use them. */
  steps: z.int().min(1).max(1000).default(50),
  guidance: z.number().min(0).max(30).default(5),
  /** What guidance leads away from. */
  negativePrompt: z.string().max(2000).default(''),
  /** SPDX id or a name; shown, not enforced. */
  licence: z.string().max(200).default(''),
  /** Statistics of the latents' channels, where the VAE keeps them among its weights (LTX-Video). */
  latentsMean: z.array(z.number()).optional(),
  latentsStd: z.array(z.number().positive()).optional(),
});

export type PipelineSettings = z.output<typeof pipelineSettingsSchema>;
