import { z } from 'zod';
import { checkSteps, predictions, timestepFields } from './ddim.ts';
import { alphaBars, closedTimesteps, withZeroTerminalSnr } from './noise-levels.ts';
import { clamp, combine } from './scheduler.ts';
import type { Scheduler } from './scheduler.ts';
import { betaFields, commonSchedules, only } from './settings.ts';

export const ddpmSchema = z.looseObject({
  ...betaFields,
  ...timestepFields,
  beta_schedule: z.enum([...commonSchedules.options, 'sigmoid']).default('linear'),
  clip_sample: z.boolean().default(true),
  thresholding: only(false),
  variance_type: z.enum(['fixed_small', 'fixed_small_log', 'fixed_large']).default('fixed_small'),
});

/** Ancestral sampling, Ho et al., arXiv 2006.11239: every step but the last adds noise. */
export function ddpm(kind: string, config: z.output<typeof ddpmSchema>): Scheduler {
  const training = config.num_train_timesteps;
  const plain = alphaBars(config);
  const bars = config.rescale_betas_zero_snr ? withZeroTerminalSnr(plain) : plain;
  return {
    kind,
    isFlow: false,
    dynamicShift: undefined,
    trainingNoise: { kind: 'discrete', alphaBars: bars, predicts: config.prediction_type },
    start(steps, options = {}) {
      checkSteps(kind, training, steps, options);
      const timesteps = closedTimesteps(config.timestep_spacing, training, steps, config.steps_offset);
      return {
        timesteps,
        step(index, prediction, sample, noise) {
          const t = timesteps[index] ?? 0;
          const now = bars[t] ?? 0;
          const then = bars[timesteps[index + 1] ?? -1] ?? 1;
          const alpha = now / then;
          const { clip } = predictions(config.prediction_type, now, prediction, sample);
          const clipped = config.clip_sample ? clamp(clip, config.clip_sample_range) : clip;
          const mean = combine(
            [(Math.sqrt(then) * (1 - alpha)) / (1 - now), clipped],
            [(Math.sqrt(alpha) * (1 - then)) / (1 - now), sample],
          );
          if (t === 0) return mean;
          const small = Math.max(((1 - then) / (1 - now)) * (1 - alpha), 1e-20);
          const variance = config.variance_type === 'fixed_large' ? 1 - alpha : small;
          return combine([1, mean], [Math.sqrt(variance), noise()]);
        },
      };
    },
  };
}
