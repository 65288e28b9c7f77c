import { invalidArgument } from '@plumb/kit/errors';
import { z } from 'zod';
import { checkSteps } from './ddim.ts';
import {
  alphaBars,
  exponentialSigmas,
  interpolate,
  karrasSigmas,
  linspace,
  openTimesteps,
  roundHalfEven,
  timestepOfSigma,
  withZeroTerminalSnr,
} from './noise-levels.ts';
import { combine } from './scheduler.ts';
import type { Scheduler, TrainingNoise } from './scheduler.ts';
import { betaFields, only } from './settings.ts';

/** Fields that the multistep solvers share. */
export const solverFields = {
  ...betaFields,
  prediction_type: z.enum(['epsilon', 'sample', 'v_prediction', 'flow_prediction']).default('epsilon'),
  solver_order: z.int().min(1).max(3).default(2),
  lower_order_final: z.boolean().default(true),
  timestep_spacing: z.enum(['leading', 'trailing', 'linspace']).default('linspace'),
  steps_offset: z.int().min(0).default(0),
  final_sigmas_type: z.enum(['zero', 'sigma_min']).default('zero'),
  rescale_betas_zero_snr: z.boolean().default(false),
  use_flow_sigmas: z.boolean().default(false),
  flow_shift: z.number().positive().default(1),
  thresholding: only(false),
  use_beta_sigmas: only(false),
  use_dynamic_shifting: only(false),
};

export const dpmSolverSchema = z.looseObject({
  ...solverFields,
  algorithm_type: z.enum(['dpmsolver++', 'sde-dpmsolver++']).default('dpmsolver++'),
  solver_type: z.enum(['midpoint', 'heun']).default('midpoint'),
  euler_at_final: z.boolean().default(false),
  use_karras_sigmas: z.boolean().default(false),
  use_exponential_sigmas: z.boolean().default(false),
  use_lu_lambdas: only(false),
  lambda_min_clipped: only('-Infinity'),
  variance_type: z.null().default(null),
});

/** What models of the multistep solvers were trained on. */
export function trainingNoise(
  config: Parameters<typeof trainingSigmas>[0] & {
    readonly use_flow_sigmas: boolean;
    readonly prediction_type: 'epsilon' | 'sample' | 'v_prediction' | 'flow_prediction';
  },
): TrainingNoise {
  if (config.use_flow_sigmas) return { kind: 'flow', timesteps: config.num_train_timesteps };
  return {
    kind: 'discrete',
    alphaBars: trainingSigmas(config).map((sigma) => 1 / (sigma * sigma + 1)),
    predicts: config.prediction_type,
  };
}

/** Noise-to-signal ratios of the training time steps, ascending. */
export function trainingSigmas(config: {
  readonly rescale_betas_zero_snr: boolean;
  readonly num_train_timesteps: number;
  readonly beta_start: number;
  readonly beta_end: number;
  readonly beta_schedule: 'linear' | 'scaled_linear' | 'squaredcos_cap_v2';
  readonly trained_betas?: readonly number[] | null | undefined;
}): number[] {
  const plain = alphaBars(config);
  // diffusers puts a smallest positive value in place of the last alpha-bar, which has no ratio.
  const bars = config.rescale_betas_zero_snr ? [...withZeroTerminalSnr(plain).slice(0, -1), 2 ** -24] : plain;
  return bars.map((bar) => Math.sqrt((1 - bar) / bar));
}

/** Signal and noise at a level: straight mixtures for flow, variance-preserving ones otherwise. */
export function signalAndLevel(isFlow: boolean, sigma: number): { signal: number; level: number } {
  // Single precision as in diffusers: close to pure noise the logarithm of the signal depends on it.
  if (isFlow) return { signal: Math.fround(1 - sigma), level: sigma };
  const signal = 1 / Math.sqrt(sigma * sigma + 1);
  return { signal, level: sigma * signal };
}

/** What the model predicts of the clip. */
export function clipPrediction(
  type: 'epsilon' | 'sample' | 'v_prediction' | 'flow_prediction',
  isFlow: boolean,
  sigma: number,
  prediction: Float32Array,
  sample: Float32Array,
): Float32Array {
  const { signal, level } = signalAndLevel(isFlow, sigma);
  switch (type) {
    case 'epsilon':
      return combine([1 / signal, sample], [-level / signal, prediction]);
    case 'sample':
      return prediction;
    case 'v_prediction':
      return combine([signal, sample], [-level, prediction]);
    case 'flow_prediction':
      return combine([1, sample], [-sigma, prediction]);
  }
}

/** Half the logarithm of the signal-to-noise ratio. */
export function logRatio({ signal, level }: { readonly signal: number; readonly level: number }): number {
  return Math.log(signal) - Math.log(level);
}

/** DPM-Solver++ multistep, orders 1 to 3, and its SDE form to order 2 (Lu et al., arXiv 2211.01095). */
export function dpmSolver(kind: string, config: z.output<typeof dpmSolverSchema>): Scheduler {
  const training = config.num_train_timesteps;
  const table = trainingSigmas(config);
  const isFlow = config.use_flow_sigmas;
  const isSde = config.algorithm_type === 'sde-dpmsolver++';
  if (isSde && config.solver_order === 3) {
    throw invalidArgument('solver_order', 'is 3, which sde-dpmsolver++ is not supported with; use 1 or 2');
  }
  return {
    kind,
    isFlow,
    dynamicShift: undefined,
    trainingNoise: trainingNoise(config),
    start(steps, options = {}) {
      const { shift = config.flow_shift, ...rest } = options;
      checkSteps(kind, training, steps, isFlow ? rest : options);
      const schedule = (): { sigmas: number[]; timesteps: number[] } => {
        if (config.use_karras_sigmas || config.use_exponential_sigmas) {
          const spaced = config.use_karras_sigmas ? karrasSigmas : exponentialSigmas;
          const sigmas = spaced(table.at(-1) ?? 0, table[0] ?? 0, steps);
          const places = sigmas.map((sigma) => timestepOfSigma(sigma, table));
          const round = config.use_karras_sigmas && config.beta_schedule !== 'squaredcos_cap_v2';
          return { sigmas, timesteps: round ? places.map(roundHalfEven) : places };
        }
        if (isFlow) {
          const sigmas = linspace(0, 1 - 1 / training, steps + 1)
            .map((sigma) => (shift * sigma) / (1 + (shift - 1) * sigma))
            .toReversed()
            .slice(0, -1);
          return { sigmas, timesteps: sigmas.map((sigma) => sigma * training) };
        }
        const timesteps = openTimesteps(config.timestep_spacing, training, steps, config.steps_offset);
        return { sigmas: timesteps.map((t) => interpolate(table, t)), timesteps };
      };
      const { sigmas: levels, timesteps } = schedule();
      const last = config.final_sigmas_type === 'zero' ? 0 : (table[0] ?? 0);
      const sigmas = [...levels, last].map(Math.fround);
      const at = (index: number) => signalAndLevel(isFlow, sigmas[index] ?? 0);
      /** Predictions of the clip, the newest last. */
      const history: Float32Array[] = [];
      return {
        timesteps: timesteps.map(Math.trunc),
        step(index, prediction, sample, noise) {
          const now = clipPrediction(config.prediction_type, isFlow, sigmas[index] ?? 0, prediction, sample);
          history.push(now);
          if (history.length > config.solver_order) history.shift();
          const few = config.lower_order_final && steps < 15;
          const finalFirst =
            index === steps - 1 && (config.euler_at_final || few || config.final_sigmas_type === 'zero');
          const order = finalFirst
            ? 1
            : Math.min(config.solver_order, history.length, index === steps - 2 && few ? 2 : 3);
          const target = at(index + 1);
          const h = logRatio(target) - logRatio(at(index));
          const ratio = target.level / at(index).level;
          const previous = history.at(-2);
          const added = isSde ? target.level * Math.sqrt(-Math.expm1(-2 * h)) : 0;
          const keep = isSde ? ratio * Math.exp(-h) : ratio;
          const move = -target.signal * (isSde ? Math.expm1(-2 * h) : Math.expm1(-h));
          const terms: (readonly [number, Float32Array])[] = [
            [keep, sample],
            [move, now],
          ];
          if (isSde) terms.push([added, noise()]);
          if (order === 1 || previous === undefined) return combine(...terms);
          const r0 = (logRatio(at(index)) - logRatio(at(index - 1))) / h;
          const d1 = combine([1 / r0, now], [-1 / r0, previous]);
          const earlier = history.at(-3);
          if (order === 2 || earlier === undefined) {
            const heun = isSde
              ? target.signal * (Math.expm1(-2 * h) / (2 * h) + 1)
              : target.signal * (Math.expm1(-h) / h + 1);
            return combine(...terms, [config.solver_type === 'midpoint' ? 0.5 * move : heun, d1]);
          }
          const r1 = (logRatio(at(index - 1)) - logRatio(at(index - 2))) / h;
          const d11 = combine([1 / r1, previous], [-1 / r1, earlier]);
          const first = combine([1 + r0 / (r0 + r1), d1], [-r0 / (r0 + r1), d11]);
          const second = combine([1 / (r0 + r1), d1], [-1 / (r0 + r1), d11]);
          const phi = Math.expm1(-h) / h + 1;
          return combine(
            ...terms,
            [target.signal * phi, first],
            [-target.signal * ((Math.expm1(-h) + h) / (h * h) - 0.5), second],
          );
        },
      };
    },
  };
}
