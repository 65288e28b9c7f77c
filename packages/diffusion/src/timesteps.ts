import { z } from 'zod';
import { gaussian, uniform, type RandomGenerator } from './random.ts';

/** Where training draws diffusion time t from; t = 0 is the clip, t = 1 is noise. */
export const timestepDistributionSchema = z
  .discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('uniform') }),
    /** t = sigmoid(N(mean, std)): a positive mean trains more on noisy inputs, where motion is decided. */
    z.strictObject({ kind: z.literal('logit-normal'), mean: z.number(), std: z.number().positive() }),
    /** Uniform over [low, high]. */
    z.strictObject({
      kind: z.literal('window'),
      low: z.number().min(0).max(1),
      high: z.number().min(0).max(1),
    }),
  ])
  .refine((value) => value.kind !== 'window' || value.low < value.high, {
    path: ['low'],
    message: 'must be below high',
  });

export type TimestepDistribution = z.infer<typeof timestepDistributionSchema>;

/** One draw of t, in (0, 1). */
export function drawTimestep(distribution: TimestepDistribution, random: RandomGenerator): number {
  switch (distribution.kind) {
    case 'uniform':
      return openInterval(uniform(random));
    case 'logit-normal':
      return openInterval(1 / (1 + Math.exp(-(distribution.mean + distribution.std * gaussian(random)))));
    case 'window':
      return openInterval(distribution.low + (distribution.high - distribution.low) * uniform(random));
  }
}

/** Times at the very ends make a division by zero in the epsilon and v parameterisations. */
function openInterval(t: number): number {
  return Math.min(Math.max(t, 1e-4), 1 - 1e-4);
}

/**
 * Times of a sampler's steps, from noise to clip: `steps + 1` values from 1 to 0, uniform and then shifted by
 * t -> shift t / (shift t + 1 - t), which spends more steps on noisy times (Esser et al., arXiv 2403.03206, eq. 23).
 * @param steps at least 1
 * @param shift above 0; 1 leaves the times uniform
 */
export function samplerTimes(steps: number, shift: number): Float64Array {
  return Float64Array.from({ length: steps + 1 }, (_, index) => {
    const t = 1 - index / steps;
    // Written so that t = 1 gives exactly 1.
    return (shift * t) / (shift * t + (1 - t));
  });
}
