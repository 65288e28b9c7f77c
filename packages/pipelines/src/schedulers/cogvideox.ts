import { z } from 'zod';
import { checkSteps, predictions, timestepFields } from './ddim.ts';
import { alphaBars, closedTimesteps, withZeroTerminalSnr } from './noise-levels.ts';
import { combine } from './scheduler.ts';
import type { Scheduler } from './scheduler.ts';
import { betaFields, commonSchedules } from './settings.ts';

export const cogVideoXSchema = z.looseObject({
  ...betaFields,
  ...timestepFields,
  beta_start: z.number().default(0.00085),
  beta_end: z.number().default(0.012),
  beta_schedule: commonSchedules.default('scaled_linear'),
  set_alpha_to_one: z.boolean().default(true),
  snr_shift_scale: z.number().positive().default(3),
});

type Config = z.output<typeof cogVideoXSchema>;

/** CogVideoX moves the signal-to-noise ratio by a factor before it rescales it (Yang et al., arXiv 2408.06072). */
function shiftedBars(config: Config): number[] {
  const scale = config.snr_shift_scale;
  const shifted = alphaBars(config).map((bar) => bar / (scale + (1 - scale) * bar));
  return config.rescale_betas_zero_snr ? withZeroTerminalSnr(shifted) : shifted;
}

/** CogVideoXDDIMScheduler: a step that stays finite where the first time step is pure noise. */
export function cogVideoXDdim(kind: string, config: Config): Scheduler {
  const training = config.num_train_timesteps;
  const bars = shiftedBars(config);
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
          const { clip } = predictions(config.prediction_type, now, prediction, sample);
          const a = Math.sqrt((1 - then) / (1 - now));
          return combine([a, sample], [Math.sqrt(then) - Math.sqrt(now) * a, clip]);
        },
      };
    },
  };
}

/** CogVideoXDPMScheduler: second-order DPM-Solver++ with added noise (Lu et al., arXiv 2211.01095, section on SDEs). */
export function cogVideoXDpm(kind: string, config: Config): Scheduler {
  const training = config.num_train_timesteps;
  const bars = shiftedBars(config);
  const final = config.set_alpha_to_one ? 1 : (bars[0] ?? 1);
  const logSnr = (bar: number): number => 0.5 * Math.log(bar / (1 - bar));
  return {
    kind,
    isFlow: false,
    dynamicShift: undefined,
    trainingNoise: { kind: 'discrete', alphaBars: bars, predicts: config.prediction_type },
    start(steps, options = {}) {
      checkSteps(kind, training, steps, options);
      const timesteps = closedTimesteps(config.timestep_spacing, training, steps, config.steps_offset);
      let before: Float32Array | undefined;
      return {
        timesteps,
        step(index, prediction, sample, noise) {
          const t = timesteps[index] ?? 0;
          const now = bars[t] ?? 0;
          const next = t - Math.floor(training / steps);
          const then = bars[next] ?? final;
          const { clip } = predictions(config.prediction_type, now, prediction, sample);
          const h = logSnr(then) - logSnr(now);
          const keep = Math.sqrt((1 - then) / (1 - now)) * Math.exp(-h);
          const move = -Math.expm1(-2 * h) * Math.sqrt(then);
          const added = Math.sqrt(1 - then) * Math.sqrt(-Math.expm1(-2 * h));
          let direction = clip;
          if (before !== undefined && next >= 0) {
            const r = (logSnr(now) - logSnr(bars[timesteps[index - 1] ?? 0] ?? 0)) / h;
            direction = combine([1 + 1 / (2 * r), clip], [-1 / (2 * r), before]);
          }
          before = clip;
          return combine([keep, sample], [move, direction], [added, noise()]);
        },
      };
    },
  };
}
