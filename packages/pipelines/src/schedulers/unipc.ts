import { z } from 'zod';
import { checkSteps } from './ddim.ts';
import {
  clipPrediction,
  logRatio,
  signalAndLevel,
  solverFields,
  trainingNoise,
  trainingSigmas,
} from './dpm-solver.ts';
import { interpolate, linspace, openTimesteps } from './noise-levels.ts';
import { combine } from './scheduler.ts';
import type { Scheduler } from './scheduler.ts';
import { only } from './settings.ts';

export const uniPcSchema = z.looseObject({
  ...solverFields,
  predict_x0: z.boolean().default(true),
  solver_type: z.enum(['bh1', 'bh2']).default('bh2'),
  disable_corrector: z.array(z.int()).default([]),
  solver_p: z.null().default(null),
  use_karras_sigmas: only(false),
  use_exponential_sigmas: only(false),
  shift_terminal: z.null().default(null),
});

/** UniPC, a predictor that the next step's prediction corrects (Zhao et al., arXiv 2302.04867). */
export function uniPc(kind: string, config: z.output<typeof uniPcSchema>): Scheduler {
  const training = config.num_train_timesteps;
  const table = trainingSigmas(config);
  const isFlow = config.use_flow_sigmas;
  return {
    kind,
    isFlow,
    dynamicShift: undefined,
    trainingNoise: trainingNoise(config),
    start(steps, options = {}) {
      const { shift = config.flow_shift, ...rest } = options;
      checkSteps(kind, training, steps, isFlow ? rest : options);
      const schedule = (): { sigmas: number[]; timesteps: number[]; smallest: number } => {
        if (isFlow) {
          const sigmas = linspace(1, 1 / training, steps + 1)
            .slice(0, -1)
            .map((sigma) => (shift * sigma) / (1 + (shift - 1) * sigma));
          // At exactly 1 there is no signal whose logarithm could be taken.
          if (Math.abs((sigmas[0] ?? 0) - 1) < 1e-6) sigmas[0] = (sigmas[0] ?? 1) - 1e-6;
          return { sigmas, timesteps: sigmas.map((sigma) => sigma * training), smallest: sigmas.at(-1) ?? 0 };
        }
        const timesteps = openTimesteps(config.timestep_spacing, training, steps, config.steps_offset);
        return { sigmas: timesteps.map((t) => interpolate(table, t)), timesteps, smallest: table[0] ?? 0 };
      };
      const { sigmas: levels, timesteps, smallest } = schedule();
      const sigmas = [...levels, config.final_sigmas_type === 'zero' ? 0 : smallest].map(Math.fround);
      const at = (index: number) => signalAndLevel(isFlow, sigmas[index] ?? 0);

      const converted = (index: number, prediction: Float32Array, sample: Float32Array): Float32Array => {
        const sigma = sigmas[index] ?? 0;
        const clip = clipPrediction(config.prediction_type, isFlow, sigma, prediction, sample);
        if (config.predict_x0) return clip;
        const { signal, level } = signalAndLevel(isFlow, sigma);
        return combine([1 / level, sample], [-signal / level, clip]);
      };

      /**
       * From level `from` to `from + 1`.
       * @param newest the prediction at the target, for the corrector; undefined predicts
       */
      const update = (
        from: number,
        order: number,
        base: Float32Array,
        outputs: readonly Float32Array[],
        newest: Float32Array | undefined,
      ): Float32Array => {
        const target = at(from + 1);
        const start = at(from);
        const h = logRatio(target) - logRatio(start);
        const current = outputs.at(-1) ?? base;
        const rks: number[] = [];
        const differences: Float32Array[] = [];
        for (let i = 1; i < order; i++) {
          const rk = (logRatio(at(from - i)) - logRatio(start)) / h;
          const older = outputs.at(-(i + 1)) ?? current;
          rks.push(rk);
          differences.push(combine([1 / rk, older], [-1 / rk, current]));
        }
        rks.push(1);
        const hh = config.predict_x0 ? -h : h;
        const phi1 = Math.expm1(hh);
        const bh = config.solver_type === 'bh1' ? hh : phi1;
        let phi = phi1 / hh - 1;
        let factorial = 1;
        const matrix: number[][] = [];
        const right: number[] = [];
        for (let i = 1; i <= order; i++) {
          matrix.push(rks.map((rk) => rk ** (i - 1)));
          right.push((phi * factorial) / bh);
          factorial *= i + 1;
          phi = phi / hh - 1 / factorial;
        }
        const scale = config.predict_x0 ? target.signal : target.level;
        const ratio = config.predict_x0 ? target.level / start.level : target.signal / start.signal;
        const terms: (readonly [number, Float32Array])[] = [
          [ratio, base],
          [-scale * phi1, current],
        ];
        if (newest === undefined) {
          const weights =
            order === 2
              ? [0.5]
              : solve(
                  matrix.slice(0, -1).map((row) => row.slice(0, -1)),
                  right.slice(0, -1),
                );
          for (const [k, difference] of differences.entries()) {
            terms.push([-scale * bh * (weights[k] ?? 0), difference]);
          }
          return combine(...terms);
        }
        const weights = order === 1 ? [0.5] : solve(matrix, right);
        for (const [k, difference] of differences.entries()) {
          terms.push([-scale * bh * (weights[k] ?? 0), difference]);
        }
        const last = weights.at(-1) ?? 0;
        return combine(...terms, [-scale * bh * last, newest], [scale * bh * last, current]);
      };

      const outputs: Float32Array[] = [];
      let lastSample: Float32Array | undefined;
      let lastOrder = 0;
      return {
        timesteps: timesteps.map(Math.trunc),
        step(index, prediction, sample) {
          const output = converted(index, prediction, sample);
          const corrected =
            index > 0 && !config.disable_corrector.includes(index - 1) && lastSample !== undefined
              ? update(index - 1, lastOrder, lastSample, outputs, output)
              : sample;
          outputs.push(output);
          if (outputs.length > config.solver_order) outputs.shift();
          const most = config.lower_order_final
            ? Math.min(config.solver_order, steps - index)
            : config.solver_order;
          lastOrder = Math.min(most, index + 1);
          lastSample = corrected;
          return update(index, lastOrder, corrected, outputs, undefined);
        },
      };
    },
  };
}

/** Solution of a small system of linear equations, by Gaussian elimination with pivots. */
function solve(matrix: readonly (readonly number[])[], right: readonly number[]): number[] {
  const size = right.length;
  const rows = matrix.map((row, i) => [...row, right[i] ?? 0]);
  const at = (i: number, j: number): number => rows[i]?.[j] ?? 0;
  for (let column = 0; column < size; column++) {
    let pivot = column;
    for (let i = column + 1; i < size; i++)
      if (Math.abs(at(i, column)) > Math.abs(at(pivot, column))) pivot = i;
    [rows[column], rows[pivot]] = [rows[pivot] ?? [], rows[column] ?? []];
    for (let i = column + 1; i < size; i++) {
      const factor = at(i, column) / at(column, column);
      rows[i] = (rows[i] ?? []).map((value, j) => value - factor * at(column, j));
    }
  }
  const solution = right.map(() => 0);
  for (let i = size - 1; i >= 0; i--) {
    let sum = at(i, size);
    for (let j = i + 1; j < size; j++) sum -= at(i, j) * (solution[j] ?? 0);
    solution[i] = sum / at(i, i);
  }
  return solution;
}
