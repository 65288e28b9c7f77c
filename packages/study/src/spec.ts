import { invalidArguments, fieldPath } from '@plumb/kit/errors';
import { samplerSettingsSchema } from '@plumb/diffusion';
import { z } from 'zod';
import type { Arm } from './records.ts';

/** The judge's accept or reject, and its grade from 1 to 5: what the toybox's referee says. */
export const judgeRewards = { binary: 'aif', graded: 'aif-graded' } as const;

const count = (most: number) =>
  z
    .int(`must be a whole number from 1 to ${most}`)
    .min(1, 'must be at least 1')
    .max(most, `must be at most ${most}`);
const name = z.string({ error: 'must be a name' }).min(1, 'is empty; give a name');
const algorithm = z.enum(['sft', 'filtered-sft', 'rwr', 'dpo', 'kto'], {
  error: 'must be one of sft, filtered-sft, rwr, dpo, kto',
});

/** One block of the matrix: every combination of what it lists. */
const blockSchema = z.strictObject({
  algorithms: z.array(algorithm).min(1, 'is empty; name at least one algorithm'),
  /** Rewards to train on; `sft` takes none. */
  rewards: z.array(name).default([]),
  /** Shares of the judge's verdicts that are turned round, for `aif` and `aif-graded`. */
  judgeNoise: z
    .array(z.number().min(0).max(0.5, 'must be at most 0.5, where verdicts say nothing'))
    .min(1)
    .default([0]),
  /** Temperatures of `rwr` or margins of `dpo` and `kto`, in place of the recipe's. */
  betas: z.array(z.number().positive('must be above 0')).optional(),
});

const studySpecSchema = z.strictObject({
  name: z
    .string({ error: 'must be a name' })
    .regex(/^[a-z0-9][a-z0-9-]{0,79}$/, 'must be of lower-case letters, digits and dashes, at most 80'),
  /** A weights file, from the spec's folder. */
  model: name,
  prompts: z.strictObject({
    set: name,
    trainPerCategory: count(100_000).optional(),
    heldoutPerCategory: count(100_000).optional(),
  }),
  /** Folder of reward definitions, from the spec's folder. */
  rewards: name,
  samplesPerPrompt: count(1024).default(10),
  sampler: samplerSettingsSchema.default({ steps: 20, guidance: 1.5, shift: 3.5 }),
  optimisation: z
    .strictObject({
      steps: count(1_000_000).default(250),
      batchSize: count(4096).default(32),
      warmupSteps: z.int().min(0).default(10),
      emaDecay: z.number().min(0).lt(1).default(0.99),
    })
    .prefault({}),
  /** Settings of the objective by algorithm, in place of the recipe's. */
  settings: z.partialRecord(algorithm, z.record(z.string(), z.unknown())).default({}),
  evaluation: z
    .strictObject({
      samplesPerPrompt: count(1024).default(8),
      guards: z.array(name).default(['motion_floor', 'object_persistence', 'colour_stability']),
    })
    .prefault({}),
  matrix: z.array(blockSchema).min(1, 'is empty; list at least one block'),
  seeds: z.array(z.int().min(0)).min(1, 'is empty; name at least one seed').default([1]),
});

/** A study as a person writes it: docs/studies.md explains it field by field. */
export type StudySpec = z.output<typeof studySpecSchema>;

/**
 * Checks a spec and fills in defaults.
 * @param source what errors call the file
 * @throws PlumbError INVALID_ARGUMENT with one violation for every bad field
 */
export function parseStudySpec(input: unknown, source: string): StudySpec {
  const parsed = studySpecSchema.safeParse(input);
  if (!parsed.success) {
    throw invalidArguments(
      parsed.error.issues.map(({ path, message }) => ({
        field: `${source}: ${fieldPath(path) || '(whole)'}`,
        description: message,
      })),
    );
  }
  const violations = parsed.data.matrix.flatMap((block, index) => {
    const field = `${source}: matrix[${index}]`;
    const trained = block.algorithms.filter((one) => one !== 'sft');
    const noisy = block.judgeNoise.some((noise) => noise > 0);
    const found = [];
    if (trained.length > 0 && block.rewards.length === 0) {
      found.push({ field: `${field}.rewards`, description: `is empty, but ${trained[0]} needs a reward` });
    }
    if (noisy && !block.rewards.every((one) => isJudge(one))) {
      found.push({
        field: `${field}.judgeNoise`,
        description: `does not apply to ${block.rewards.find((one) => !isJudge(one))}; put it in a block with ${Object.values(judgeRewards).join(' and ')} alone`,
      });
    }
    const unfit = block.algorithms.filter((one) => one === 'sft' || one === 'filtered-sft');
    if (block.betas !== undefined && unfit.length > 0) {
      found.push({ field: `${field}.betas`, description: `does not apply to ${unfit.join(' and ')}` });
    }
    return found;
  });
  if (violations.length > 0) throw invalidArguments(violations);
  return parsed.data;
}

/** Whether a reward is the judge's word, in which noise can be put. */
export function isJudge(reward: string): boolean {
  return reward === judgeRewards.binary || reward === judgeRewards.graded;
}

/** All arms of the matrix in the spec's order, each once. */
export function armsOf({ matrix }: Pick<StudySpec, 'matrix'>): readonly Arm[] {
  const arms = new Map<string, Arm>();
  for (const { algorithms, rewards, judgeNoise, betas = [undefined] } of matrix) {
    for (const algorithm of algorithms) {
      for (const reward of algorithm === 'sft' ? [undefined] : rewards) {
        for (const noise of reward !== undefined && isJudge(reward) ? judgeNoise : [0]) {
          for (const beta of betas) {
            const arm: Arm = {
              algorithm,
              ...(reward === undefined ? {} : { reward }),
              ...(noise === 0 ? {} : { judgeNoise: noise }),
              ...(beta === undefined ? {} : { beta }),
            };
            arms.set(armId(arm), arm);
          }
        }
      }
    }
  }
  return [...arms.values()];
}

/** `rwr`, `rwr aif`, `rwr aif 20% noise`, `dpo aif beta 100`: unique among arms, and readable. */
export function armId({ algorithm, reward, judgeNoise, beta }: Arm): string {
  return [
    algorithm,
    ...(reward === undefined ? [] : [reward]),
    ...(judgeNoise === undefined ? [] : [`${Number((judgeNoise * 100).toFixed(2))}% noise`]),
    ...(beta === undefined ? [] : [`beta ${beta}`]),
  ].join(' ');
}
