import { invalidArguments } from '@plumb/kit/errors';
import type { OptimiserOptions } from '@plumb/tensor-graph';
import { z } from 'zod';
import { timestepDistributionSchema } from './timesteps.ts';

/** How weights are optimised. The learning rate and the number of steps decide how far a policy moves. */
export const optimisationSettingsSchema = z
  .strictObject({
    /** Optimiser steps of the whole job. */
    steps: z.int().min(1).max(10_000_000),
    /** Items a step: clips, or pairs of clips for dpo. */
    batchSize: z.int().min(1).max(4096),
    /** Largest learning rate of AdamW. Rates above 1e-3 damage pictures in finetuning. */
    learningRate: z.number().positive().max(1),
    /** Decoupled weight decay of matrices (Loshchilov and Hutter, arXiv 1711.05101). */
    weightDecay: z.number().min(0).max(1).default(0),
    /** Steps over which the rate rises linearly from 0. */
    warmupSteps: z.int().min(0).default(0),
    /** `cosine` falls to 0 over the job; `trapezoid` is constant and falls linearly to 0 over the last 30%. */
    schedule: z.enum(['constant', 'cosine', 'trapezoid']).default('trapezoid'),
    /** Gradients are scaled down to this global norm. */
    clipNorm: z.number().positive().default(1),
    /** Decay of the moving average of weights that becomes the checkpoint; 0 takes the weights themselves. */
    emaDecay: z.number().min(0).lt(1).default(0),
    /** Share of captions replaced by the empty one, so that guidance keeps working. */
    captionDropout: z.number().min(0).max(1).default(0.1),
    /**
     * `blocks` keeps only what enters every block of the model, and computes the rest of it a second time for the
     * gradient: less memory, more time.
     */
    rematerialise: z.enum(['none', 'blocks']).default('none'),
    /**
     * What forward and backward pass compute their products in. Weights, optimiser, reductions, normalisation, softmax and
     * loss are float32 in all of them. float16 scales the loss, and skips steps whose gradient overflows.
     */
    precision: z.enum(['float32', 'bfloat16', 'float16']).default('float32'),
    /** Which diffusion times are trained on; shifted towards noise, where motion is decided. */
    timesteps: timestepDistributionSchema.default({ kind: 'logit-normal', mean: 1.3, std: 1.3 }),
  })
  .refine((value) => value.warmupSteps < value.steps, {
    path: ['warmupSteps'],
    message: 'must be below steps',
  });

export type OptimisationSettings = z.infer<typeof optimisationSettingsSchema>;

/** @throws PlumbError INVALID_ARGUMENT with one violation for each wrong field */
export function parseOptimisationSettings(input: unknown): OptimisationSettings {
  const parsed = optimisationSettingsSchema.safeParse(input);
  if (parsed.success) return parsed.data;
  throw invalidArguments(
    parsed.error.issues.map((issue) => ({
      field: ['optimisation', ...issue.path].join('.'),
      description: issue.message,
    })),
  );
}

/** AdamW as training uses it. */
export function optimiserOf(
  settings: OptimisationSettings,
): OptimiserOptions & { readonly clipNorm: number } {
  return {
    beta1: 0.9,
    // Below the usual 0.999: follows the changing gradients of noisy times faster.
    beta2: 0.98,
    weightDecay: settings.weightDecay,
    clipNorm: settings.clipNorm,
    ema: settings.emaDecay > 0,
  };
}

/** Learning rate of a step, counted from 0. */
export function learningRateAt(settings: OptimisationSettings, step: number): number {
  const { steps, warmupSteps, learningRate, schedule } = settings;
  const warm = warmupSteps === 0 ? 1 : Math.min((step + 1) / warmupSteps, 1);
  switch (schedule) {
    case 'constant':
      return learningRate * warm;
    case 'cosine':
      return learningRate * warm * 0.5 * (1 + Math.cos((Math.PI * step) / steps));
    case 'trapezoid':
      return learningRate * warm * Math.min((steps - step) / (0.3 * steps), 1);
  }
}
