import { acceptance, pairedDifference, pairOutcomes } from '@plumb/evaluation';
import type { Estimate, PairedOutcome } from '@plumb/evaluation';
import type { RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { z } from 'zod';
import { bootstrapSeedOf } from './identity.ts';
import { samplerOf } from './sample-plan.ts';
import { acceptThreshold, checksOf, exclusionOf, valueOf } from './sample-record.ts';
import type { SampleRecord } from './sample-record.ts';

/** Media type of the evaluation manifest's artifact. */
export const evaluationMediaType = 'application/vnd.plumb.evaluation+json';

/** A share with its 95% interval, which respects the grouping by prompt. */
const rateSchema = z.strictObject({ rate: z.number(), low: z.number(), high: z.number(), samples: z.int() });
/** A paired difference, after minus before, with its 95% interval. */
const differenceSchema = z.strictObject({ mean: z.number(), low: z.number(), high: z.number(), pairs: z.int() });

const rates = z.record(z.string(), rateSchema);
const differences = z.record(z.string(), differenceSchema);

const evaluationSchema = z.strictObject({
  /** Keyed by category id and `overall`. Over the pairs, so that after minus before is the difference. */
  before: rates,
  after: rates,
  difference: differences,
  /** Keyed by the name of the check, for example `picture`. */
  checksBefore: rates,
  checksAfter: rates,
  checksDifference: differences,
  /** Mean of the held-out reward, where the spec names one. */
  heldOutDifference: differenceSchema.optional(),
  /** Mean of the reward that was trained on. */
  trainedDifference: differenceSchema.optional(),
  /** Acceptance of the training samples. */
  trainingAcceptance: rates,
  /** Samples without a partner, because it ended in an error. */
  unpaired: z.strictObject({ before: z.int(), after: z.int() }),
});

/** What an evaluation found. */
export type IterationEvaluation = z.infer<typeof evaluationSchema>;
export type Rate = z.infer<typeof rateSchema>;
export type Difference = z.infer<typeof differenceSchema>;

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
}

/**
 * Compares two models on the held-out prompts, sample by sample on the same seeds. A sample whose partner ended in an error
 * is left out of every figure. Pure: the same samples and seed give the same numbers.
 */
export function evaluate(inputs: EvaluationInputs): IterationEvaluation {
  const { spec, before, after, train } = inputs;
  const reward = spec.evaluation?.reward ?? '';
  const options = { seed: bootstrapSeedOf(spec.seed, inputs.iteration) };
  const { pairs, unpaired } = pair(before, after, (sample) => acceptedOf(sample, reward));
  const compared = pairedDifference(pairs, options);
  const checks = compareChecks(before, after, reward, options);
  const heldOut = spec.evaluation?.heldOutReward ?? '';
  const trained = spec.objective?.reward ?? '';
  const heldOutDifference = heldOut === '' ? undefined : meanDifference(before, after, heldOut, options);
  const trainedDifference = trained === '' ? undefined : meanDifference(before, after, trained, options);
  return {
    before: ratesOf(
      pairs.map((item) => ({ ...item, value: item.before })),
      options,
    ),
    after: ratesOf(
      pairs.map((item) => ({ ...item, value: item.after })),
      options,
    ),
    difference: {
      overall: differenceOf(compared.difference),
      ...Object.fromEntries(
        Object.entries(compared.perCategory).map(([id, category]) => [id, differenceOf(category.difference)]),
      ),
    },
    ...checks,
    ...(heldOutDifference === undefined ? {} : { heldOutDifference }),
    ...(trainedDifference === undefined ? {} : { trainedDifference }),
    trainingAcceptance: ratesOf(acceptedSamples(train, reward), options),
    unpaired: { before: countOf(unpaired.before), after: countOf(unpaired.after) },
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
  const version = (found: ModelVersion) => ({ version: found.version, sha256: found.weights?.sha256 ?? '' });
  return {
    kind: 'plumb.evaluation',
    version: 1,
    runId,
    iteration,
    before: version(model),
    after: version(candidate),
    promptSetHash: spec.promptSetHash,
    sampler: { steps, guidance, shift },
    reward: spec.evaluation?.reward ?? '',
    heldOutReward: spec.evaluation?.heldOutReward ?? '',
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
    category: sample.category,
    seed: sample.seed,
    sha256: sample.video?.sha256 ?? '',
    scores: Object.fromEntries(
      sample.scores.map(({ reward, version, weightsHash, outcome }) => [
        reward,
        { version, weightsHash, ...('value' in outcome ? { value: outcome.value } : { error: outcome.error }) },
      ]),
    ),
  };
}

interface BootstrapOptions {
  readonly seed: number;
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

function acceptedSamples(samples: readonly SampleRecord[], reward: string) {
  return outcomesOf(samples, (sample) => acceptedOf(sample, reward));
}

function pair(
  before: readonly SampleRecord[],
  after: readonly SampleRecord[],
  value: (sample: SampleRecord) => number | undefined,
) {
  return pairOutcomes(outcomesOf(before, value), outcomesOf(after, value));
}

function meanDifference(
  before: readonly SampleRecord[],
  after: readonly SampleRecord[],
  reward: string,
  options: BootstrapOptions,
): Difference | undefined {
  const { pairs } = pair(before, after, (sample) => valueOf(sample, reward));
  return pairs.length === 0 ? undefined : differenceOf(pairedDifference(pairs, options).difference);
}

function compareChecks(
  before: readonly SampleRecord[],
  after: readonly SampleRecord[],
  reward: string,
  options: BootstrapOptions,
): Pick<IterationEvaluation, 'checksBefore' | 'checksAfter' | 'checksDifference'> {
  const names = new Set([...before, ...after].flatMap((sample) => Object.keys(checksOf(sample, reward))));
  const checksBefore: Record<string, Rate> = {};
  const checksAfter: Record<string, Rate> = {};
  const checksDifference: Record<string, Difference> = {};
  for (const name of [...names].toSorted()) {
    const passed = (sample: SampleRecord): number | undefined => {
      const check = checksOf(sample, reward)[name];
      return check === undefined ? undefined : Number(check);
    };
    const { pairs } = pair(before, after, passed);
    if (pairs.length === 0) continue;
    const [first, second] = [overallOf(pairs, 'before', options), overallOf(pairs, 'after', options)];
    checksBefore[name] = first;
    checksAfter[name] = second;
    checksDifference[name] = differenceOf(pairedDifference(pairs, options).difference);
  }
  return { checksBefore, checksAfter, checksDifference };
}

function overallOf(pairs: readonly PairedOutcome[], side: 'before' | 'after', options: BootstrapOptions): Rate {
  const values = pairs.map((item) => ({ ...item, value: item[side] }));
  return rateOf(acceptance(values, options).overall);
}

function ratesOf(
  outcomes: readonly { promptId: string; category: string; value: number }[],
  options: BootstrapOptions,
): Record<string, Rate> {
  if (outcomes.length === 0) return {};
  const { overall, perCategory } = acceptance(outcomes, options);
  return {
    overall: rateOf(overall),
    ...Object.fromEntries(Object.entries(perCategory).map(([id, estimate]) => [id, rateOf(estimate)])),
  };
}

function rateOf(estimate: Estimate): Rate {
  return { rate: estimate.value, low: estimate.lower, high: estimate.upper, samples: estimate.samples };
}

function differenceOf(estimate: Estimate): Difference {
  return { mean: estimate.value, low: estimate.lower, high: estimate.upper, pairs: estimate.samples };
}

function countOf(unpaired: number | readonly unknown[]): number {
  return typeof unpaired === 'number' ? unpaired : unpaired.length;
}
