import type { OptimisationSettings } from '@plumb/diffusion';
import { parseObjectiveSettings } from '@plumb/objective';
import type { AlgorithmName, ObjectiveSettings } from '@plumb/objective';

/**
 * What a reward's values are like. `binary`: 1 or 0. `graded`: 1 to 5. `metric`: any number, of which only the order
 * within a prompt is used.
 */
export type FeedbackForm = 'binary' | 'graded' | 'metric';

/** How an algorithm is trained on feedback of one form. */
export interface Recipe {
  readonly objective: ObjectiveSettings;
  readonly optimisation: Pick<OptimisationSettings, 'learningRate' | 'timesteps'>;
}

/** Of the forward projections, which share it. */
const forward: Recipe['optimisation'] = {
  learningRate: 4e-4,
  timesteps: { kind: 'logit-normal', mean: 1.3, std: 1.3 },
};
/** Of the margins. Motion is decided in the noisy times; the SFT anchor keeps the pictures (docs/training.md). */
const margins: Recipe['optimisation'] = {
  learningRate: 1e-4,
  timesteps: { kind: 'window', low: 0.6, high: 1 },
};

const own: Readonly<Record<AlgorithmName, Recipe['optimisation'] & { readonly settings: object }>> = {
  sft: { ...forward, settings: {} },
  'filtered-sft': { ...forward, settings: {} },
  rwr: { ...forward, settings: {} },
  dpo: { ...margins, settings: { beta: 500, sftAnchor: 3 } },
  // kto's anchor counts rejected clips as 0: with balanced classes 6 is as strong as dpo's 3.
  kto: { ...margins, settings: { beta: 500, sftAnchor: 6 } },
};

/**
 * How values become labels and weights. Metrics have units of their own and differ more between prompts than within one:
 * they are standardised within the prompt, so that about half of its clips are above 0, as about half of the toybox's are
 * accepted; a temperature of 1 then moves the data about as far as keeping that half does.
 */
const labelling: Readonly<Record<FeedbackForm, Readonly<Partial<Record<AlgorithmName | 'all', object>>>>> = {
  binary: {},
  graded: {
    all: { shaping: { gamma: 1, eta: 0.25 } },
    dpo: { pairs: 'margin', minMargin: 0.25 },
  },
  metric: {
    all: { shaping: { standardise: 'per-prompt' }, acceptThreshold: 0 },
    rwr: { temperature: 1 },
    dpo: { pairs: 'margin', minMargin: 0.5 },
  },
};

/**
 * How an algorithm is trained on the toybox.
 * @param options `beta` replaces the recipe's temperature (`rwr`) or margin (`dpo`, `kto`); `lowerIsBetter` turns a metric
 *   round; `settings` replace any others of the objective
 * @throws PlumbError INVALID_ARGUMENT for settings that the algorithm does not have
 */
export function recipeFor(
  algorithm: AlgorithmName,
  form: FeedbackForm,
  options: {
    readonly beta?: number | undefined;
    readonly lowerIsBetter?: boolean;
    readonly settings?: object;
  } = {},
): Recipe {
  const { settings, ...optimisation } = own[algorithm];
  const { all = {}, [algorithm]: special = {} } = labelling[form];
  // A cost is turned round after it was standardised.
  const shaping = form === 'metric' && options.lowerIsBetter === true ? { eta: -1 } : {};
  const common: { shaping?: object } = algorithm === 'sft' ? {} : all;
  const strength =
    options.beta === undefined ? {} : { [algorithm === 'rwr' ? 'temperature' : 'beta']: options.beta };
  return {
    optimisation,
    objective: parseObjectiveSettings({
      algorithm,
      ...settings,
      ...common,
      ...(common.shaping === undefined ? {} : { shaping: { ...common.shaping, ...shaping } }),
      ...special,
      ...strength,
      ...options.settings,
    }),
  };
}
