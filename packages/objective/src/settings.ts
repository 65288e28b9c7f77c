import { invalidArguments, fieldPath } from '@plumb/kit/errors';
import { z } from 'zod';

const finite = z.number({ error: 'must be a finite number' });
const positive = finite.positive('must be above 0');
const count = finite.int('must be a whole number').positive('must be at least 1');

/** From raw to shaped reward, in this order: standardise, eta (r - gamma), clip. Everything after sees shaped rewards. */
const shaping = z
  .strictObject({
    /**
     * `per-prompt` subtracts each prompt's mean reward and divides by its standard deviation (n - 1), so that hard and
     * easy prompts count alike and only differences within a prompt remain. Prompts without spread become 0.
     */
    standardise: z.enum(['none', 'per-prompt']).default('none'),
    /** Scale. Negative turns a cost into a reward. Under `exp` it acts as 1 / temperature. */
    eta: finite.refine((eta) => eta !== 0, 'must not be 0, which would make every reward equal').default(1),
    /** Offset in the unit of the (standardised) reward. Under `shaped`, samples at or below it get no weight. */
    gamma: finite.default(0),
    /** [lowest, highest] shaped reward: keeps outliers of unbounded metric rewards from taking all the weight. */
    clip: z
      .tuple([finite, finite])
      .refine(([low, high]) => low < high, {
        error: 'must be [lowest, highest] with lowest < highest',
        abort: true,
      })
      .optional(),
  })
  .prefault({});

/** Settings of every algorithm. */
const common = {
  shaping,
  /**
   * Shaped reward from which a sample counts as accepted: what `filtered-sft` keeps, which side of a `binary` pair or
   * of `kto` a sample is on, and what the acceptance rate of the data counts. 0.5 suits rewards in {0, 1} and
   * probabilities.
   */
  acceptThreshold: finite.default(0.5),
  /**
   * Which groups get equal mass in the batches however many samples or how much weight they have. `category` keeps an
   * easy category from crowding out the others; `prompt` goes further; `none` follows the weights alone.
   */
  balance: z.enum(['none', 'category', 'prompt']).default('category'),
  /** Largest share of samples that may be missing for want of a score before the data step refuses the data set. */
  maxUnscoredShare: finite.min(0, 'must be at least 0').max(1, 'must be at most 1').default(0.5),
};

/** Settings of the forward-EM-projection. */
const forward = {
  ...common,
  /**
   * How a weight acts. `resample` draws samples in proportion to their weights and leaves the loss unweighted, so that
   * no step is spent on a sample of little weight; `multiply` draws evenly and multiplies the loss. The expected
   * gradient is the same.
   */
  weighting: z.enum(['resample', 'multiply']).default('resample'),
  /**
   * `global` scales all weights to mean 1 together; `per-prompt` makes them self-normalised importance weights of p*
   * within each prompt, which is what p* with its Z(c) asks for.
   */
  normalisation: z.enum(['global', 'per-prompt']).default('global'),
  /**
   * Largest weight in units of the mean weight. Lower is stabler and more biased: where fewer than 1 / maxWeight of the
   * samples are good, they cannot take all of the mass. What it cut is reported.
   */
  maxWeight: finite.gt(1, 'must be above 1, the mean weight').default(50),
  /**
   * lambda of the extra anchor lambda * ||policy - reference||^2 (mean over elements): the per-step Gaussian KL up to a
   * schedule constant. 0 leaves it out; larger keeps the policy's predictions near the reference's.
   */
  klAnchor: finite.min(0, 'must be at least 0').default(0),
};

const sft = z.strictObject({ algorithm: z.literal('sft'), ...forward });

const filteredSft = z.strictObject({ algorithm: z.literal('filtered-sft'), ...forward });

const rwr = z.strictObject({
  algorithm: z.literal('rwr'),
  ...forward,
  /** `exp`: w = exp(r / temperature), the optimum's own weight. `shaped`: w = max(0, r), linear in the shaped reward. */
  transform: z.enum(['exp', 'shaped']).default('exp'),
  /**
   * beta, in the unit of the shaped reward; used by `exp`. Small follows the reward (at 0.2 an accepted sample weighs
   * e^5 = 148 rejected ones), large stays near the reference; at infinity it is `sft`.
   */
  temperature: positive.default(0.2),
});

/**
 * Strength of the anchor inside the margin. It absorbs the number of diffusion steps and the schedule's weight, as in
 * Diffusion-DPO (arXiv 2311.12908), and multiplies squared errors that are *means over elements*; for sums over
 * elements divide it by the number of elements. Larger stays nearer to the reference (the loss saturates after a
 * smaller change); smaller allows more drift.
 */
const margin = positive.default(500);

/** Settings of the reverse-BT-projection. */
const reverse = {
  ...common,
  beta: margin,
  /**
   * lambda of the denoising loss lambda * w * ||target - policy||^2 (mean over elements) on chosen or accepted samples.
   * A margin is content when both errors grow, as long as that of the rejected sample grows faster, and pictures suffer;
   * this holds the chosen ones where they are. 0 leaves it out; around 3, with noisy timesteps, worked on the toybox.
   */
  sftAnchor: finite.min(0, 'must be at least 0').default(0),
};

const dpo = z.strictObject({
  algorithm: z.literal('dpo'),
  ...reverse,
  /**
   * Which samples of a prompt are paired. `binary`: an accepted with a rejected one. `best-worst`: the highest with the
   * lowest shaped reward, one pair a prompt. `margin`: any two that differ by at least `minMargin`.
   */
  pairs: z.enum(['binary', 'best-worst', 'margin']).default('binary'),
  /** Largest number of pairs from one prompt: keeps prompts with many samples from dominating. */
  maxPairsPerPrompt: count.default(64),
  /** How often one sample may appear in pairs of its prompt. 1 pairs without replacement; more reuses the rarer class. */
  maxUsesPerSample: count.default(1),
  /** Smallest difference of shaped rewards of a pair, for `best-worst` and `margin`. Equal rewards never pair. */
  minMargin: finite.min(0, 'must be at least 0').default(0),
});

const kto = z.strictObject({
  algorithm: z.literal('kto'),
  ...reverse,
  /**
   * Where z0 comes from. `mismatched`: the implicit reward of the batch's samples under other prompts of the batch, as
   * in the KTO paper; costs one more forward pass of policy and reference. `batch`: under their own prompts; free, and
   * biased upwards once the policy has learned.
   */
  klEstimate: z.enum(['mismatched', 'batch']).default('mismatched'),
  /** `classes` gives accepted and rejected samples equal mass; `none` leaves their shares as sampled. */
  labelBalance: z.enum(['classes', 'none']).default('classes'),
});

/** Schemas by algorithm; `algorithms.ts` holds the row of each. */
export const settingsSchemas = { sft, 'filtered-sft': filteredSft, rwr, dpo, kto } as const;

/** The objective's settings: `{ algorithm }` alone is complete, everything else has a default. Unknown keys are errors. */
export const objectiveSettings = z
  .discriminatedUnion('algorithm', [sft, filteredSft, rwr, dpo, kto], {
    error: () => `must be one of ${Object.keys(settingsSchemas).join(', ')}`,
  })
  .check(({ value: settings, issues }) => {
    const fail = (path: string[], message: string): void => {
      issues.push({ code: 'custom', path, message, input: settings });
    };
    const highest = settings.shaping.clip?.[1] ?? Infinity;
    if (settings.algorithm === 'rwr' && settings.transform === 'shaped' && highest <= 0) {
      fail(['shaping', 'clip'], `ends at ${highest}, so every weight max(0, r) would be 0; raise it above 0`);
    }
    if (settings.algorithm !== 'sft' && settings.acceptThreshold > highest) {
      fail(
        ['acceptThreshold'],
        `is ${settings.acceptThreshold}, above the highest shaped reward ${highest} of shaping.clip; no sample could be accepted`,
      );
    }
    if (settings.algorithm === 'dpo' && settings.pairs === 'binary' && settings.minMargin > 0) {
      fail(
        ['minMargin'],
        'does not apply to binary pairs; set pairs to best-worst or margin, or leave it out',
      );
    }
  });

/** Complete settings of one algorithm. */
export type ObjectiveSettings = z.output<typeof objectiveSettings>;

/** What a person may write: everything but `algorithm` is optional. */
export type ObjectiveSettingsInput = z.input<typeof objectiveSettings>;

export type AlgorithmName = keyof typeof settingsSchemas;

/** Complete settings of the algorithm of this name. */
export type SettingsOf<A extends AlgorithmName> = SettingsByAlgorithm[A];

type SettingsByAlgorithm = { [A in AlgorithmName]: z.output<(typeof settingsSchemas)[A]> };

/** How rewards are shaped before anything uses them. */
export type Shaping = z.output<typeof shaping>;

/**
 * Checks settings and fills in defaults.
 * @throws PlumbError INVALID_ARGUMENT with one violation for every bad field
 */
export function parseObjectiveSettings(input: unknown): ObjectiveSettings {
  const result = objectiveSettings.safeParse(input);
  if (result.success) return result.data;
  throw invalidArguments(
    result.error.issues.map(({ path, message }) => ({
      field: fieldPath(['objective', ...path]),
      description: message,
    })),
  );
}
