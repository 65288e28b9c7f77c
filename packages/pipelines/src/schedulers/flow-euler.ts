import { invalidArgument } from '@plumb/kit/errors';
import { z } from 'zod';
import { exponentialSigmas, karrasSigmas, linspace } from './noise-levels.ts';
import { combine } from './scheduler.ts';
import type { Scheduler } from './scheduler.ts';
import { only } from './settings.ts';

export const flowEulerSchema = z.looseObject({
  num_train_timesteps: z.int().min(1).default(1000),
  shift: z.number().positive().default(1),
  use_dynamic_shifting: z.boolean().default(false),
  base_shift: z
    .number()
    .nullish()
    .transform((value) => value ?? 0.5),
  max_shift: z
    .number()
    .nullish()
    .transform((value) => value ?? 1.15),
  base_image_seq_len: z.int().positive().default(256),
  max_image_seq_len: z.int().positive().default(4096),
  shift_terminal: z.number().min(0).max(1).nullish(),
  time_shift_type: z.enum(['exponential', 'linear']).default('exponential'),
  use_karras_sigmas: z.boolean().default(false),
  use_exponential_sigmas: z.boolean().default(false),
  invert_sigmas: only(false),
  use_beta_sigmas: only(false),
  stochastic_sampling: only(false),
});

/** Euler's method along straight paths (Liu et al., arXiv 2209.03003; shifting as in Esser et al., arXiv 2403.03206). */
export function flowEuler(kind: string, config: z.output<typeof flowEulerSchema>): Scheduler {
  const training = config.num_train_timesteps;
  const slope =
    (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len);
  return {
    kind,
    isFlow: true,
    dynamicShift: config.use_dynamic_shifting
      ? (length) => config.base_shift + slope * (length - config.base_image_seq_len)
      : undefined,
    trainingNoise: { kind: 'flow', timesteps: training },
    start(steps, options = {}) {
      const shift = options.shift ?? config.shift;
      const shifted = (sigma: number): number => (shift * sigma) / (1 + (shift - 1) * sigma);
      // The ends that diffusers spaces its steps between have been shifted once already.
      const ends = config.use_dynamic_shifting ? [1, 1 / training] : [shifted(1), shifted(1 / training)];
      const given = options.sigmas ?? linspace(ends[0] ?? 1, ends[1] ?? 0, steps);
      if (given.length !== steps) {
        throw invalidArgument('sampler.steps', `is ${steps}, but ${given.length} noise levels were given`);
      }
      let sigmas = [...given];
      if (config.use_dynamic_shifting) {
        const { mu } = options;
        if (mu === undefined) {
          throw invalidArgument('mu', `is missing; ${kind} shifts by the length of the sequence`);
        }
        const scale = options.shift ?? (config.time_shift_type === 'exponential' ? Math.exp(mu) : mu);
        sigmas = sigmas.map((sigma) => scale / (scale + (1 / sigma - 1)));
      } else {
        sigmas = sigmas.map(shifted);
      }
      if (typeof config.shift_terminal === 'number' && config.shift_terminal > 0) {
        const stretch = (1 - (sigmas.at(-1) ?? 0)) / (1 - config.shift_terminal);
        sigmas = sigmas.map((sigma) => 1 - (1 - sigma) / stretch);
      }
      const [first = 1] = sigmas;
      const smallest = sigmas.at(-1) ?? 0;
      if (config.use_karras_sigmas) sigmas = karrasSigmas(first, smallest, steps);
      else if (config.use_exponential_sigmas) sigmas = exponentialSigmas(first, smallest, steps);
      return {
        timesteps: sigmas.map((sigma) => Math.fround(sigma * training)),
        step: (index, prediction, sample) =>
          combine([1, sample], [(sigmas[index + 1] ?? 0) - (sigmas[index] ?? 0), prediction]),
      };
    },
  };
}
