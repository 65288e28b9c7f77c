import { acceptance, compareModels, detectOverOptimisation } from '@plumb/evaluation';
import type { MeasuredClip, PairedDifference, ProbePoint, Signals } from '@plumb/evaluation';
import type { RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { z } from 'zod';
import { decide, rulesOf } from './gate.ts';
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
  const signals = signalsOf(spec);
  const options = { seed: bootstrapSeedOf(spec.seed, inputs.iteration) };
  const measured = (samples: readonly SampleRecord[]): MeasuredClip[] =>
    samples.map((sample) => measuredClip(sample, signals.judge));
  const compared = compareModels(measured(before), measured(after), signals, options);
  const training = verdictsOf(train, signals.judge);
  const overOptimisation = findOverOptimisation(inputs.earlier ?? [], compared);
  return {
    ...compared,
    ...(overOptimisation === undefined ? {} : { overOptimisation }),
    ...(training.length === 0 ? {} : { training: acceptance(training, options) }),
  };
}

function signalsOf({ evaluation, objective }: RunSpec): Signals {
  return {
    judge: evaluation?.reward ?? '',
    heldOut: evaluation?.heldOutReward ?? '',
    trained: objective?.reward ?? '',
    guards: evaluation?.guards ?? [],
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
    model: found.model,
    uri: found.weights?.uri ?? '',
    sha256: found.weights?.sha256 ?? '',
    mediaType: found.weights?.mediaType ?? '',
  });
  const { promoted, rules } = decide(spec, result);
  return {
    kind: 'plumb.evaluation',
    version: 3,
    runId,
    iteration,
    before: version(model),
    after: version(candidate),
    promptSetHash: spec.promptSetHash,
    sampler: { steps, guidance, shift },
    signals: signalsOf(spec),
    gate: rulesOf(spec, result),
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
    decision: { promoted, rules },
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
      sample.scores.map(({ reward, version, weightsHash, rubricHash, outcome }) => [
        reward,
        {
          version,
          weightsHash,
          ...(rubricHash === undefined ? {} : { rubricHash }),
          ...('value' in outcome
            ? { value: outcome.value, checks: outcome.checks }
            : { error: outcome.error }),
        },
      ]),
    ),
  };
}

/** What was measured on a sample: nothing, if it ended in an error. */
function measuredClip(sample: SampleRecord, judge: string): MeasuredClip {
  const { promptId, category, seed, error, scores } = sample;
  const values = scores.flatMap(({ reward, outcome }) =>
    'value' in outcome ? [[reward, outcome.value] as const] : [],
  );
  return {
    promptId,
    category,
    seed,
    values: error === undefined ? Object.fromEntries(values) : {},
    checks: error === undefined ? checksOf(sample, judge) : {},
  };
}

function verdictsOf(samples: readonly SampleRecord[], judge: string) {
  return samples.flatMap((sample) => {
    const value = sample.error === undefined ? valueOf(sample, judge) : undefined;
    const { promptId, category } = sample;
    return value === undefined ? [] : [{ promptId, category, value: Number(value >= acceptThreshold) }];
  });
}

type Watched = Pick<IterationEvaluation, 'guards' | 'guardRewards'> & {
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
  here: Watched,
): string[] | undefined {
  const points: ProbePoint[] = [];
  const add = (signals: Watched, side: 'before' | 'after'): void => {
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
