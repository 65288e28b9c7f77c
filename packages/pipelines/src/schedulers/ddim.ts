import { invalidArgument } from '@plumb/kit/errors';
import { z } from 'zod';
import { alphaBars, closedTimesteps, withZeroTerminalSnr } from './noise-levels.ts';
import { clamp, combine } from './scheduler.ts';
import type { Scheduler, ScheduleOptions } from './scheduler.ts';
import { betaFields, only } from './settings.ts';

/** Fields of the schedulers that step from one training time step to another. */
export const timestepFields = {
  prediction_type: z.enum(['epsilon', 'sample', 'v_prediction']).default('epsilon'),
  clip_sample_range: z.number().positive().default(1),
  steps_offset: z.int().min(0).default(0),
  timestep_spacing: z.enum(['leading', 'trailing', 'linspace']).default('leading'),
  rescale_betas_zero_snr: z.boolean().default(false),
};

export const ddimSchema = z.looseObject({
  ...betaFields,
  ...timestepFields,
  clip_sample: z.boolean().default(true),
  thresholding: only(false),
  set_alpha_to_one: z.boolean().default(true),
});

/** @throws PlumbError INVALID_ARGUMENT for more steps than there are training time steps, or options of flow schedulers */
export function checkSteps(kind: string, training: number, steps: number, options: ScheduleOptions): void {
  if (steps > training) {
    throw invalidArgument(
      'sampler.steps',
      `is ${steps}, but ${kind} was trained with ${training} time steps; use at most that many`,
    );
  }
  if (options.shift !== undefined) {
    throw invalidArgument('sampler.shift', `is ${options.shift}, but ${kind} has no timestep shift; use 1`);
  }
}

/** Prediction of the clip and of the noise, from what the model was trained to predict. */
export function predictions(
  type: 'epsilon' | 'sample' | 'v_prediction',
  alphaBar: number,
  prediction: Float32Array,
  sample: Float32Array,
): { clip: Float32Array; noise: Float32Array } {
  const signal = Math.sqrt(alphaBar);
  const level = Math.sqrt(1 - alphaBar);
  switch (type) {
    case 'epsilon':
      return { clip: combine([1 / signal, sample], [-level / signal, prediction]), noise: prediction };
    case 'sample':
      return { clip: prediction, noise: combine([1 / level, sample], [-signal / level, prediction]) };
    case 'v_prediction':
      return {
        clip: combine([signal, sample], [-level, prediction]),
        noise: combine([signal, prediction], [level, sample]),
      };
  }
}

/** DDIM without added noise (eta 0), Song et al., arXiv 2010.02502. */
export function ddim(kind: string, config: z.output<typeof ddimSchema>): Scheduler {
  const training = config.num_train_timesteps;
  const plain = alphaBars(config);
  const bars = config.rescale_betas_zero_snr ? withZeroTerminalSnr(plain) : plain;
  const final = config.set_alpha_to_one ? 1 : (bars[0] ?? 1);
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
        step(index, prediction, sample) {
          const t = timesteps[index] ?? 0;
          const now = bars[t] ?? 0;
          const then = bars[t - Math.floor(training / steps)] ?? final;
          const { clip, noise } = predictions(config.prediction_type, now, prediction, sample);
          const clipped = config.clip_sample ? clamp(clip, config.clip_sample_range) : clip;
          return combine([Math.sqrt(then), clipped], [Math.sqrt(1 - then), noise]);
        },
      };
    },
  };
}
