import { acceptance, detectOverOptimisation, pairedDifference, pairOutcomes } from '@plumb/evaluation';
import type { BootstrapOptions, Comparison, PairedDifference, ProbePoint } from '@plumb/evaluation';
import type { RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { z } from 'zod';
import { bootstrapSeedOf } from './identity.ts';
import { samplerOf } from './sample-plan.ts';
import { acceptThreshold, checksOf, exclusionOf, valueOf } from './sample-record.ts';
import type { SampleRecord } from './sample-record.ts';

/** Media type of the evaluation manifest's artifact. */
export const evaluationMediaType = 'application/vnd.plumb.evaluation+json';

const estimateSchema = z.strictObject({
  value: z.number(),
  lower: z.number(),
  upper: z.number(),
  level: z.number(),
  method: z.enum(['cluster-bootstrap', 'wilson']),
  clusters: z.int(),
  samples: z.int(),
});
const comparisonSchema = z.strictObject({
  before: estimateSchema,
  after: estimateSchema,
  difference: estimateSchema,
  winRate: estimateSchema,
  pValue: z.number(),
});
const pairedSchema = comparisonSchema.extend({
  perCategory: z.record(z.string(), comparisonSchema.extend({ adjustedPValue: z.number() })),
  correction: z.literal('holm'),
});

const evaluationSchema = z.strictObject({
  /** By the verdict of the evaluation's reward, 1 or 0. */
  verdict: pairedSchema,
  /** By the held-out reward's value, where the spec names one. */
  heldOut: pairedSchema.optional(),
  /** By the value of the reward that was trained on. */
  trained: pairedSchema.optional(),
  /** By the checks that came with the verdicts, for example `picture`: shares of clips that pass. */
  guards: z.record(z.string(), comparisonSchema),
  /** By the values of the guard rewards that the spec names. */
  guardRewards: z.record(z.string(), comparisonSchema).default({}),
  /** Signs of over-optimisation up to here; absent where no held-out reward was measured. */
  overOptimisation: z.array(z.string()).optional(),
  /** Acceptance of the training samples; absent when the evaluation's reward did not score them. */
  training: z
    .strictObject({ overall: estimateSchema, perCategory: z.record(z.string(), estimateSchema) })
    .optional(),
  /** Samples without a partner, because it ended in an error. */
  unpaired: z.strictObject({ before: z.int(), after: z.int() }),
});

/** What an evaluation found. Every comparison is over the samples whose partner of the same seed has a value too. */
export type IterationEvaluation = z.infer<typeof evaluationSchema>;

/** Reads an evaluation out of the ledger. */
export function parseEvaluation(text: string): IterationEvaluation {
  return evaluationSchema.parse(JSON.parse(text));
}

/** What an evaluation looks at. */
export interface EvaluationInputs {
  readonly runId: string;
  readonly iteration: number;
  readonly spec: RunSpec;
  readonly before: readonly SampleRecord[];
  readonly after: readonly SampleRecord[];
  readonly train: readonly SampleRecord[];
  /** Evaluations of the iterations before, in order, and whether their candidates were promoted. */
  readonly earlier?: readonly { readonly result: IterationEvaluation; readonly promoted: boolean }[];
}

/**
 * Compares two models on the held-out prompts, sample by sample on the same seeds. A sample whose partner ended in an error
 * is left out of every figure. Pure: the same samples and seed give the same numbers.
 */
export function evaluate(inputs: EvaluationInputs): IterationEvaluation {
  const { spec, before, after, train } = inputs;
  const reward = spec.evaluation?.reward ?? '';
  const options = { seed: bootstrapSeedOf(spec.seed, inputs.iteration) };
  const verdict = (sample: SampleRecord): number | undefined => acceptedOf(sample, reward);
  const { pairs, unpaired } = pairOutcomes(outcomesOf(before, verdict), outcomesOf(after, verdict));
  const heldOut = compareReward(inputs, spec.evaluation?.heldOutReward ?? '', options);
  const trained = compareReward(inputs, spec.objective?.reward ?? '', options);
  const training = outcomesOf(train, verdict);
  const guards = compareGuards(inputs, reward, options);
  const guardRewards: Record<string, Comparison> = {};
  for (const guard of spec.evaluation?.guards ?? []) {
    const compared = compareReward(inputs, guard, options);
    if (compared !== undefined) guardRewards[guard] = comparisonOf(compared);
  }
  const here = { heldOut, trained, guards, guardRewards };
  const overOptimisation = findOverOptimisation(inputs.earlier ?? [], here);
  return {
    verdict: pairedDifference(pairs, options),
    ...(heldOut === undefined ? {} : { heldOut }),
    ...(trained === undefined ? {} : { trained }),
    guards,
    guardRewards,
    ...(overOptimisation === undefined ? {} : { overOptimisation }),
    ...(training.length === 0 ? {} : { training: acceptance(training, options) }),
    unpaired: { ...unpaired },
  };
}

/** Everything from which an evaluation can be repeated, and what it found. */
export function evaluationManifest(
  inputs: EvaluationInputs & {
    readonly result: IterationEvaluation;
    readonly model: ModelVersion;
    readonly candidate: ModelVersion;
  },
): object {
  const { runId, iteration, spec, result, model, candidate } = inputs;
  const { steps, guidance, shift } = samplerOf(spec, 'before');
  const version = (found: ModelVersion) => ({
    version: found.version,
    uri: found.weights?.uri ?? '',
    sha256: found.weights?.sha256 ?? '',
  });
  return {
    kind: 'plumb.evaluation',
    version: 2,
    runId,
    iteration,
    before: version(model),
    after: version(candidate),
    promptSetHash: spec.promptSetHash,
    sampler: { steps, guidance, shift },
    reward: spec.evaluation?.reward ?? '',
    heldOutReward: spec.evaluation?.heldOutReward ?? '',
    guards: spec.evaluation?.guards ?? [],
    bootstrapSeed: bootstrapSeedOf(spec.seed, iteration),
    samples: {
      before: inputs.before.map((sample) => manifestSample(sample)),
      after: inputs.after.map((sample) => manifestSample(sample)),
    },
    excluded: [...inputs.before, ...inputs.after].flatMap((sample) => {
      const reason = exclusionOf(sample);
      return reason === undefined ? [] : [{ sampleId: sample.id, reason }];
    }),
    result,
  };
}

function manifestSample(sample: SampleRecord): object {
  return {
    sampleId: sample.id,
    promptId: sample.promptId,
    prompt: sample.promptText,
    category: sample.category,
    seed: sample.seed,
    sha256: sample.video?.sha256 ?? '',
    scores: Object.fromEntries(
      sample.scores.map(({ reward, version, weightsHash, outcome }) => [
        reward,
        {
          version,
          weightsHash,
          ...('value' in outcome ? { value: outcome.value } : { error: outcome.error }),
        },
      ]),
    ),
  };
}

function acceptedOf(sample: SampleRecord, reward: string): number | undefined {
  const value = valueOf(sample, reward);
  return value === undefined ? undefined : Number(value >= acceptThreshold);
}

function outcomesOf(samples: readonly SampleRecord[], value: (sample: SampleRecord) => number | undefined) {
  return samples.flatMap((sample) => {
    const found = sample.error === undefined ? value(sample) : undefined;
    const { promptId, category, seed } = sample;
    return found === undefined ? [] : [{ promptId, category, seed, value: found }];
  });
}

function compareReward(
  { before, after }: EvaluationInputs,
  reward: string,
  options: BootstrapOptions,
): PairedDifference | undefined {
  const value = (sample: SampleRecord): number | undefined => valueOf(sample, reward);
  const [first, second] = [outcomesOf(before, value), outcomesOf(after, value)];
  if (first.length === 0 || second.length === 0) return undefined;
  return pairedDifference(pairOutcomes(first, second).pairs, options);
}

function compareGuards(
  { before, after }: EvaluationInputs,
  reward: string,
  options: BootstrapOptions,
): Record<string, Comparison> {
  const names = new Set([...before, ...after].flatMap((sample) => Object.keys(checksOf(sample, reward))));
  const guards: Record<string, Comparison> = {};
  for (const name of [...names].toSorted()) {
    const passed = (sample: SampleRecord): number | undefined => {
      const check = checksOf(sample, reward)[name];
      return check === undefined ? undefined : Number(check);
    };
    const [first, second] = [outcomesOf(before, passed), outcomesOf(after, passed)];
    if (first.length === 0 || second.length === 0) continue;
    const compared = pairedDifference(pairOutcomes(first, second).pairs, options);
    guards[name] = comparisonOf(compared);
  }
  return guards;
}

function comparisonOf({ before, after, difference, winRate, pValue }: PairedDifference): Comparison {
  return { before, after, difference, winRate, pValue };
}

type Signals = Pick<IterationEvaluation, 'guards' | 'guardRewards'> & {
  readonly heldOut?: PairedDifference | undefined;
  readonly trained?: PairedDifference | undefined;
};

/**
 * Whether the reward that is trained on has risen at the expense of the held-out one or of a guard, from the model that the
 * run began with, over every promoted model, to the candidate. Guards may fall by a tenth of what they were: they are means
 * of values in units of their own.
 */
function findOverOptimisation(
  earlier: NonNullable<EvaluationInputs['earlier']>,
  here: Signals,
): string[] | undefined {
  const points: ProbePoint[] = [];
  const add = (signals: Signals, side: 'before' | 'after'): void => {
    const { heldOut, trained } = signals;
    if (heldOut === undefined || trained === undefined) return;
    const guards = Object.fromEntries(
      Object.entries({ ...signals.guards, ...signals.guardRewards }).map(([name, compared]) => [
        name,
        compared[side].value,
      ]),
    );
    points.push({ step: points.length, trained: trained[side].value, heldOut: heldOut[side].value, guards });
  };
  add(earlier[0]?.result ?? here, 'before');
  for (const { result, promoted } of earlier) if (promoted) add(result, 'after');
  add(here, 'after');
  if (here.heldOut === undefined || here.trained === undefined || points.length < 2) return undefined;
  const { findings } = detectOverOptimisation(points, { guardTolerance: 0.1, relativeGuards: true });
  return findings.map(({ sentence }) => sentence);
}
