import type { MessageInitShape } from '@bufbuild/protobuf';
import { invalidArgument } from '@plumb/kit/errors';
import { hasLatents } from '@plumb/media/model-media-types';
import type { RunSpecSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import {
  AdaptersSchema,
  ObjectiveSchema,
  OptimisationSchema,
  ProbeSchema,
} from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { z } from 'zod';
import { message } from './section-message.ts';

export type RunSpecInit = Exclude<MessageInitShape<typeof RunSpecSchema>, { $typeName: string }>;

const section = z.record(z.string(), z.unknown(), { error: 'must be a mapping of settings' });
const name = z.string({ error: 'must be a name' }).min(1, 'is empty; give a name');
const count = (most: number) =>
  z
    .int(`must be a whole number from 1 to ${most}`)
    .min(1, 'must be at least 1')
    .max(most, `must be at most ${most}`);
const share = z.number({ error: 'must be a number' });

/** What is left out is the model's own. */
const samplerSchema = z.strictObject({
  /** Denoising steps. */
  steps: count(1000).optional(),
  /** Classifier-free guidance; 1 is none. */
  guidance: z.number().min(0).max(100).optional(),
  /** Timestep shift of the flow schedule; 1 is none. */
  shift: z.number().positive().max(100).optional(),
});

const units = { s: 1, min: 60, h: 3600, d: 86_400 } as const;
const durationPattern = /^(\d+(?:\.\d+)?)\s*(s|min|h|d)$/;

const durationSchema = z
  .string()
  .regex(durationPattern, 'must be a time such as 90 s, 30 min, 12 h or 7 d')
  .transform((text) => {
    const [, number = '0', unit = 's'] = durationPattern.exec(text) ?? [];
    return Number(number) * units[unit as keyof typeof units];
  });

const gateRule = z.strictObject({
  rule: z.enum([
    'smallest-gain',
    'largest-category-loss',
    'not-lower',
    'guards-not-lower',
    'no-over-optimisation',
  ]),
  signal: z.enum(['judge', 'held-out', 'trained']).optional(),
  gain: share.optional(),
  lowerBound: share.optional(),
  loss: share.optional(),
  tolerance: share.optional(),
  by: z.enum(['estimate', 'lower-bound']).optional(),
  significant: z.boolean().optional(),
});

/** What a spec that leaves it out gets for its kind of model. */
interface ModelDefaults {
  readonly sampler: { readonly steps: number; readonly guidance: number; readonly shift: number };
  readonly optimisation: Readonly<Record<string, unknown>>;
  readonly adapters?: Readonly<Record<string, unknown>>;
}

/** What the toybox needs; docs/training.md explains each setting. */
const toyboxOptimisation = {
  steps: 250,
  batchSize: 32,
  learningRate: 4e-4,
  warmupSteps: 10,
  schedule: 'trapezoid',
  clipNorm: 1,
  emaDecay: 0.99,
  checkpointEverySteps: 50,
  captionDropout: 0.1,
  timesteps: { kind: 'logit-normal', mean: 1.3, std: 1.3 },
};
const toyboxDefaults: ModelDefaults = {
  sampler: { steps: 20, guidance: 1.5, shift: 3.5 },
  optimisation: toyboxOptimisation,
};

/** Of adapters on the denoiser of a pipeline, one clip a pass: nothing here has been tuned on a published model. */
const pipelineTraining = {
  optimisation: {
    ...toyboxOptimisation,
    batchSize: 8,
    learningRate: 1e-4,
    timesteps: { kind: 'logit-normal', mean: 0, std: 1 },
    rematerialise: 'blocks',
  },
  adapters: { rank: 32 },
};

/** @throws PlumbError INVALID_ARGUMENT for a pipeline that says nothing of its sampler */
function defaultsOf(
  { version, weights, sampler }: ModelVersion,
  given: Partial<ModelDefaults['sampler']>,
  at: (field: string) => string,
): ModelDefaults {
  if (!hasLatents(weights?.mediaType ?? '')) return toyboxDefaults;
  const { steps = sampler?.steps, guidance = sampler?.guidance, shift = sampler?.shift } = given;
  if (steps === undefined || guidance === undefined || shift === undefined) {
    throw invalidArgument(
      at('sampler'),
      `is left to the model, but ${version} does not say how it is sampled; give steps, guidance and shift, or import the pipeline again`,
    );
  }
  return { ...pipelineTraining, sampler: { steps, guidance, shift } };
}

/** The spec of a run as a person writes it: docs/runs.md explains it field by field. */
export const runSpecSchema = z.strictObject({
  name: name.max(200).default('run'),
  /** A weights file, from the spec's folder, or a registered version such as toybox@promoted. */
  model: name,
  prompts: z.strictObject({
    /** A prompt-set file, from the spec's folder. */
    set: name,
    trainPerCategory: count(100_000).optional(),
    heldoutPerCategory: count(100_000).optional(),
  }),
  samplesPerPrompt: count(1024).default(10),
  sampler: samplerSchema.prefault({}),
  rewards: z.array(name).min(1, 'is empty; name at least one reward, for example aif').default(['aif']),
  /** The reward whose value is the verdict. */
  judge: name.default('aif'),
  /** A reward that no training signal comes from. */
  heldOutJudge: name.optional(),
  objective: section.default({}),
  optimisation: section.default({}),
  adapters: section.optional(),
  probe: section.optional(),
  iterations: count(100).default(1),
  reference: z
    .enum(['previous', 'pretrained'], { error: 'must be previous or pretrained' })
    .default('pretrained'),
  evaluation: z
    .strictObject({
      samplesPerPrompt: count(1024).default(8),
      /** That of the training clips unless given. */
      sampler: samplerSchema.optional(),
      guards: z.array(name).default([]),
    })
    .prefault({}),
  /** The default gate unless given. */
  gate: z.array(gateRule).min(1, 'has no rules; everything would be promoted').optional(),
  budgets: z
    .strictObject({
      samples: z.int().positive('must be above 0; leave it out for no limit').optional(),
      judgeTokens: z.int().positive('must be above 0; leave it out for no limit').optional(),
      cost: z.number().positive('must be above 0; leave it out for no limit').optional(),
      trainingSteps: z.int().positive('must be above 0; leave it out for no limit').optional(),
      wallTime: durationSchema.optional(),
    })
    .optional(),
  /** What the verdicts of people on training clips are worth. */
  labels: z
    .strictObject({
      use: z.enum(['none', 'override'], { error: 'must be none or override' }).default('none'),
      /** Clips that need a verdict before the data set is frozen. */
      atLeast: z.int().min(0, 'must be 0 or more').default(0),
    })
    .optional(),
  maxErrorShare: z.number().min(0).max(0.99).default(0.05),
  sequential: z.boolean().default(false),
  seed: z
    .union([z.int().min(0), z.string().regex(/^\d{1,20}$/)], {
      error: 'must be a whole number from 0 to 2^64 - 1, in quotes above 2^53',
    })
    .default(1)
    .transform(BigInt)
    .refine((seed) => seed < 2n ** 64n, 'must be below 2^64'),
});

/** Everything of a run's spec but base and prompts. */
export type ModelSpec = Omit<RunSpecInit, 'base' | 'prompts' | 'promptSetHash'>;

/** Whether a model is named by a registered version, such as toybox@promoted, and not by a path. */
export function isRegisteredVersion(model: string): boolean {
  return registeredVersion.test(model);
}

/** A registered version: the line of a model, and 12 digits of its hash or `promoted`. */
export const registeredVersion = /^[a-z0-9][a-z0-9._-]*@([0-9a-f]{12}|promoted)$/;

/** A checked spec in terms of the loop's contract: what it leaves out is what the model needs. */
export interface CheckedRunSpec {
  /** For the built-in model. */
  readonly spec: ModelSpec;
  /**
   * For the model that the run begins with.
   * @throws PlumbError INVALID_ARGUMENT for a pipeline that does not say how it is sampled
   */
  readonly specFor: (base: ModelVersion) => ModelSpec;
}

/**
 * What a person wrote, as the loop takes it. What fields say together is checked by the loop, which sees every spec.
 * @param at how errors call a field
 * @throws PlumbError INVALID_ARGUMENT for a section with a field that its message does not have
 */
export function checkedRunSpec(
  data: Omit<z.output<typeof runSpecSchema>, 'model' | 'prompts'>,
  at: (field: string) => string,
): CheckedRunSpec {
  const { judge, heldOutJudge = '', evaluation, budgets, labels } = data;
  const specWith = (defaults: ModelDefaults): ModelSpec => {
    const sampler = { ...defaults.sampler, ...definedOnly(data.sampler) };
    const adapters = data.adapters ?? defaults.adapters;
    return {
      name: data.name,
      samplesPerPrompt: data.samplesPerPrompt,
      sampler,
      rewards: data.rewards,
      objective: message(
        ObjectiveSchema,
        { algorithm: 'rwr', reward: data.rewards[0] ?? '', balance: 'category', ...data.objective },
        at('objective'),
      ),
      optimisation: message(
        OptimisationSchema,
        { ...defaults.optimisation, ...data.optimisation },
        at('optimisation'),
      ),
      ...(adapters === undefined ? {} : { adapters: message(AdaptersSchema, adapters, at('adapters')) }),
      ...(data.probe === undefined ? {} : { probe: message(ProbeSchema, data.probe, at('probe')) }),
      iterations: data.iterations,
      reference: data.reference,
      evaluation: {
        samplesPerPrompt: evaluation.samplesPerPrompt,
        sampler: { ...sampler, ...definedOnly(evaluation.sampler ?? {}) },
        reward: judge,
        heldOutReward: heldOutJudge,
        guards: evaluation.guards,
      },
      ...(data.gate === undefined ? {} : { gate: { rules: data.gate.map(definedOnly) } }),
      ...(budgets === undefined
        ? {}
        : {
            budgets: {
              samples: BigInt(budgets.samples ?? 0),
              judgeTokens: BigInt(budgets.judgeTokens ?? 0),
              cost: budgets.cost ?? 0,
              trainingSteps: BigInt(budgets.trainingSteps ?? 0),
              seconds: budgets.wallTime ?? 0,
            },
          }),
      ...(labels === undefined ? {} : { labels }),
      maxErrorShare: data.maxErrorShare,
      sequential: data.sequential,
      seed: data.seed,
    };
  };
  return {
    spec: specWith(toyboxDefaults),
    specFor: (base) => specWith(defaultsOf(base, definedOnly(data.sampler), at)),
  };
}

type Defined<T> = { [Key in keyof T]: Exclude<T[Key], undefined> };

function definedOnly<T extends object>(value: T): Defined<T> {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as Defined<T>;
}
