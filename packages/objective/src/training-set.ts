import { createHash } from 'node:crypto';
import { invalidArgument, invalidArguments, PlumbError } from '@plumb/kit/errors';
import { max, mean, min, standardDeviation } from 'simple-statistics';
import { algorithms } from './algorithms.ts';
import type { ForwardRow } from './algorithms.ts';
import { planBatches } from './batches.ts';
import { selectPairs } from './pairs.ts';
import { keyedGenerator } from './randomness.ts';
import type { AlgorithmName, ObjectiveSettings, SettingsOf } from './settings.ts';
import { shapeRewards } from './shaping.ts';
import { normaliseWeights } from './weights.ts';
import type { CapEffect } from './weights.ts';

/** A generated clip with what scoring it gave: a value or an error, never a stand-in for one. */
export type LabelledSample = {
  readonly sampleId: string;
  readonly promptId: string;
  readonly category: string;
} & ({ readonly reward: number } | { readonly error: { readonly reason: string; readonly message: string } });

interface ItemOrigin {
  readonly promptId: string;
  readonly category: string;
  /** In proportion to the item's share of its balance group's draws or loss; see `planBatches`. */
  readonly weight: number;
}

/** One sample of a forward projection. */
export interface WeightedSample extends ItemOrigin {
  readonly kind: 'weighted-sample';
  readonly sampleId: string;
  /** Shaped. */
  readonly reward: number;
}

/** One preference pair of a reverse projection; both samples belong to the prompt. */
export interface PreferencePair extends ItemOrigin {
  readonly kind: 'pair';
  readonly chosenId: string;
  readonly rejectedId: string;
  /** Shaped. */
  readonly chosenReward: number;
  /** Shaped, below `chosenReward`. */
  readonly rejectedReward: number;
}

/** One accepted or rejected sample of an unpaired reverse projection. */
export interface AcceptLabel extends ItemOrigin {
  readonly kind: 'labelled-sample';
  readonly sampleId: string;
  readonly accepted: boolean;
  /** Shaped. */
  readonly reward: number;
}

export type TrainingItem = WeightedSample | PreferencePair | AcceptLabel;

/** Why a sample is in no training item. */
export interface Exclusion {
  readonly sampleId: string;
  /**
   * `unscored`: its score is an error. `no-weight`: its weight is 0 (below the threshold, or shaped to 0).
   * `no-contrast`: nothing in its prompt differs from it enough to pair. `not-paired`: its prompt gave pairs, without it.
   */
  readonly reason: 'unscored' | 'no-weight' | 'no-contrast' | 'not-paired';
  readonly detail: string;
}

/** Counts of the samples of one category, or of all. */
export interface SampleCounts {
  readonly samples: number;
  /** Samples with a reward. */
  readonly scored: number;
  readonly prompts: number;
  /** Share of the scored samples whose shaped reward is at least `acceptThreshold`; 0 if none is scored. */
  readonly acceptanceRate: number;
  /** Training items made from them. */
  readonly items: number;
}

export interface TrainingSetStatistics extends SampleCounts {
  readonly perCategory: Readonly<Record<string, SampleCounts>>;
  /** Of the raw rewards. */
  readonly reward: {
    readonly mean: number;
    readonly standardDeviation: number;
    readonly lowest: number;
    readonly highest: number;
  };
  /**
   * Share of prompts whose scored samples carry no signal for this algorithm: all one label (`filtered-sft`, `kto`), all
   * one reward (`sft`, `rwr`), or no pair (`dpo`). Above half is an alarm: sample more, or harder or easier prompts.
   */
  readonly uninformativePromptRatio: number;
  readonly uninformativePrompts: readonly string[];
  /** Kish's, over items, with weights and balancing together. */
  readonly effectiveSampleSize: number;
  /** What the largest-weight cap did; forward projections only. */
  readonly cap?: CapEffect;
}

/** What a training job trains on. Frozen deeply; equal inputs in any order give an equal set with an equal hash. */
export interface TrainingSet {
  readonly settings: ObjectiveSettings;
  readonly seed: number;
  /** Not empty, in order of prompt and sample id. */
  readonly items: readonly TrainingItem[];
  readonly exclusions: readonly Exclusion[];
  readonly statistics: TrainingSetStatistics;
}

/** A scored sample with its shaped reward. */
interface ShapedSample {
  readonly sampleId: string;
  readonly promptId: string;
  readonly category: string;
  readonly rawReward: number;
  readonly reward: number;
  readonly accepted: boolean;
}

interface Selection {
  readonly items: TrainingItem[];
  readonly exclusions: Exclusion[];
  readonly uninformative: string[];
  readonly cap?: CapEffect;
}

/**
 * The data step: from labelled samples to a frozen training set. Pure; the order of the samples does not matter.
 *
 * @param samples of the prompts to train on; held-out prompts are the caller's to leave out
 * @param settings from `parseObjectiveSettings`
 * @param seed decides which pairs are taken where there is a choice
 * @throws PlumbError INVALID_ARGUMENT for a reward that is NaN or infinite, a sample given twice, or a prompt in two
 *   categories; FAILED_PRECONDITION (DATASET_UNUSABLE) for no samples, too few scores, or no contrast to learn from
 *   (one class only)
 */
export function freezeTrainingSet(
  samples: readonly LabelledSample[],
  settings: ObjectiveSettings,
  seed: number,
): TrainingSet {
  checkSamples(samples);
  const ordered = samples.toSorted(
    (a, b) => compare(a.promptId, b.promptId) || compare(a.sampleId, b.sampleId),
  );
  const exclusions: Exclusion[] = [];
  for (const sample of ordered) {
    if ('error' in sample) {
      const { reason, message } = sample.error;
      exclusions.push({ sampleId: sample.sampleId, reason: 'unscored', detail: `${reason}: ${message}` });
    }
  }
  const unscored = exclusions.length / samples.length;
  if (unscored === 1 || unscored > settings.maxUnscoredShare) {
    throw unusable(
      'samples',
      `${exclusions.length} of ${samples.length} have no score (first: ${exclusions[0]?.detail}), above maxUnscoredShare ` +
        `${settings.maxUnscoredShare}; mend the scorer and score them again`,
    );
  }
  const shaped = shapeSamples(ordered, settings);
  checkContrast(shaped, settings);
  const selection = select(shaped, settings, seed);
  if (selection.items.length === 0) throw noContrast(settings, shaped);
  exclusions.push(...selection.exclusions);
  return deepFreeze({
    settings: structuredClone(settings),
    seed,
    items: selection.items,
    exclusions,
    statistics: describe(ordered, shaped, selection, settings),
  });
}

/** SHA-256 of a training set, in lower-case hex: the same for equal content, whatever the order of object keys. */
export function trainingSetHash(set: TrainingSet): string {
  const canonical = JSON.stringify(set, (_key, value: unknown) =>
    value !== null && typeof value === 'object' && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).toSorted(([a], [b]) => compare(a, b)))
      : value,
  );
  return createHash('sha256').update(canonical).digest('hex');
}

function compare(a: string, b: string): number {
  // By code unit: the order must not depend on the machine's locale.
  return a < b ? -1 : a > b ? 1 : 0;
}

function checkSamples(samples: readonly LabelledSample[]): void {
  if (samples.length === 0) {
    throw unusable('samples', 'is empty; generate and score samples of the training prompts first');
  }
  const notFinite = samples.filter((sample) => 'reward' in sample && !Number.isFinite(sample.reward));
  if (notFinite.length > 0) {
    throw invalidArguments(
      notFinite.slice(0, 10).map((sample) => ({
        field: `samples[${sample.sampleId}].reward`,
        description: `is ${'reward' in sample ? sample.reward : ''}; must be finite (a failed score is an error, not a number)`,
      })),
      { reason: 'NUMERICS_NOT_FINITE', metadata: { count: String(notFinite.length) } },
    );
  }
  const seen = new Set<string>();
  const categories = new Map<string, string>();
  for (const { sampleId, promptId, category } of samples) {
    if (seen.has(sampleId))
      throw invalidArgument(`samples[${sampleId}]`, 'is given twice; give every sample once');
    seen.add(sampleId);
    const known = categories.get(promptId) ?? category;
    if (known !== category) {
      throw invalidArgument(
        `samples[${sampleId}].category`,
        `is ${category}, but prompt ${promptId} is in ${known} elsewhere; a prompt has one category`,
      );
    }
    categories.set(promptId, known);
  }
}

function shapeSamples(ordered: readonly LabelledSample[], settings: ObjectiveSettings): ShapedSample[] {
  const scored = ordered.filter((sample) => 'reward' in sample);
  const rewards = shapeRewards(
    scored.map((sample) => sample.reward),
    scored.map((sample) => sample.promptId),
    settings.shaping,
  );
  return scored.map(({ sampleId, promptId, category, reward: rawReward }, index) => {
    const reward = rewards[index] ?? NaN;
    return { sampleId, promptId, category, rawReward, reward, accepted: reward >= settings.acceptThreshold };
  });
}

function checkContrast(shaped: readonly ShapedSample[], settings: ObjectiveSettings): void {
  const { contrast } = algorithms[settings.algorithm];
  if (contrast === 'labels' && isUniform(shaped, ({ accepted }) => accepted))
    throw noContrast(settings, shaped);
  if (contrast === 'rewards') {
    const prompts = Map.groupBy(shaped, ({ promptId }) => promptId);
    const perPrompt = settings.algorithm === 'rwr' && settings.normalisation === 'per-prompt';
    const pools = perPrompt ? [...prompts.values()] : [shaped];
    if (pools.every((pool) => isUniform(pool, ({ reward }) => reward))) throw noContrast(settings, shaped);
  }
}

function isUniform(samples: readonly ShapedSample[], key: (sample: ShapedSample) => unknown): boolean {
  return new Set(samples.map(key)).size < 2;
}

/** The one-class error, which says what the data holds and what would mend it. */
function noContrast(settings: ObjectiveSettings, shaped: readonly ShapedSample[]): PlumbError {
  const accepted = shaped.filter((sample) => sample.accepted).length;
  const holds =
    `${accepted} of ${shaped.length} scored samples are accepted (shaped reward >= ${settings.acceptThreshold})` +
    `, shaped rewards from ${min(shaped.map(({ reward }) => reward))} to ${max(shaped.map(({ reward }) => reward))}`;
  const needs = {
    'not-needed': 'samples with weight',
    labels: 'both accepted and rejected samples',
    rewards:
      'samples whose rewards differ (within a prompt if normalisation is per-prompt) and some weight above 0',
    pairs: 'prompts with a better and a worse sample',
  }[algorithms[settings.algorithm].contrast];
  return unusable(
    'samples',
    `hold no contrast: ${settings.algorithm} needs ${needs}, but ${holds}; ` +
      'draw more samples per prompt, move acceptThreshold or shaping, or use a reward that tells them apart',
  );
}

function unusable(field: string, description: string): PlumbError {
  return new PlumbError({
    code: 'FAILED_PRECONDITION',
    reason: 'DATASET_UNUSABLE',
    message: `${field}: ${description}`,
    fieldViolations: [{ field, description }],
  });
}

function select(shaped: readonly ShapedSample[], settings: ObjectiveSettings, seed: number): Selection {
  if (settings.algorithm === 'dpo') return pair(shaped, settings, seed);
  if (settings.algorithm === 'kto') return label(shaped, settings);
  return weigh(shaped, settings.algorithm, settings);
}

type ForwardAlgorithm = {
  [A in AlgorithmName]: (typeof algorithms)[A] extends { projection: 'forward-em' } ? A : never;
}[AlgorithmName];

function weigh<A extends ForwardAlgorithm>(
  shaped: readonly ShapedSample[],
  algorithm: A,
  settings: SettingsOf<A>,
): Selection {
  const rows: { [B in ForwardAlgorithm]: ForwardRow<SettingsOf<B>> } = algorithms;
  const row = rows[algorithm];
  const logWeight = row.logWeight(settings);
  const { weights, cap } = normaliseWeights(
    shaped.map(({ reward }) => logWeight(reward)),
    shaped.map(({ promptId }) => promptId),
    settings.normalisation,
    settings.maxWeight,
  );
  const items: TrainingItem[] = [];
  const exclusions: Exclusion[] = [];
  for (const [index, { sampleId, promptId, category, reward }] of shaped.entries()) {
    const weight = weights[index] ?? 0;
    if (weight > 0) items.push({ kind: 'weighted-sample', sampleId, promptId, category, weight, reward });
    else exclusions.push({ sampleId, reason: 'no-weight', detail: `shaped reward ${reward}` });
  }
  const byLabel = row.contrast === 'labels';
  const uninformative = uninformativePrompts(shaped, ({ accepted, reward }) => (byLabel ? accepted : reward));
  return { items, exclusions, uninformative, cap };
}

function pair(shaped: readonly ShapedSample[], settings: SettingsOf<'dpo'>, seed: number): Selection {
  const items: TrainingItem[] = [];
  const exclusions: Exclusion[] = [];
  const uninformative: string[] = [];
  for (const [promptId, candidates] of Map.groupBy(shaped, (sample) => sample.promptId)) {
    const pairs = selectPairs(candidates, settings, keyedGenerator(seed, 'pairs', promptId));
    if (pairs.length === 0) uninformative.push(promptId);
    const used = new Set<string>();
    for (const { chosen, rejected } of pairs) {
      used.add(chosen.sampleId).add(rejected.sampleId);
      items.push({
        kind: 'pair',
        chosenId: chosen.sampleId,
        rejectedId: rejected.sampleId,
        promptId,
        category: chosen.category,
        weight: 1,
        chosenReward: chosen.reward,
        rejectedReward: rejected.reward,
      });
    }
    for (const { sampleId, reward, accepted } of candidates) {
      if (used.has(sampleId)) continue;
      exclusions.push({
        sampleId,
        reason: pairs.length === 0 ? 'no-contrast' : 'not-paired',
        detail: `${accepted ? 'accepted' : 'rejected'}, shaped reward ${reward}`,
      });
    }
  }
  return { items, exclusions, uninformative };
}

function label(shaped: readonly ShapedSample[], settings: SettingsOf<'kto'>): Selection {
  const groupOf = ({ category, promptId }: ShapedSample): string =>
    settings.balance === 'none' ? '' : settings.balance === 'category' ? category : promptId;
  const groups = Map.groupBy(shaped, groupOf);
  const shares = new Map(
    [...groups].map(([group, members]) => [
      group,
      members.filter(({ accepted }) => accepted).length / members.length,
    ]),
  );
  const items = shaped.map((sample): TrainingItem => {
    const { sampleId, promptId, category, accepted, reward } = sample;
    const share = shares.get(groupOf(sample)) ?? 0.5;
    // Half the group's mass for each class; a group of one class keeps it all.
    const balanced = share === 0 || share === 1 ? 1 : 0.5 / (accepted ? share : 1 - share);
    const weight = settings.labelBalance === 'classes' ? balanced : 1;
    return { kind: 'labelled-sample', sampleId, promptId, category, weight, accepted, reward };
  });
  return { items, exclusions: [], uninformative: uninformativePrompts(shaped, ({ accepted }) => accepted) };
}

function uninformativePrompts(
  shaped: readonly ShapedSample[],
  key: (sample: ShapedSample) => unknown,
): string[] {
  return [...Map.groupBy(shaped, ({ promptId }) => promptId)]
    .filter(([, members]) => isUniform(members, key))
    .map(([promptId]) => promptId);
}

function describe(
  samples: readonly LabelledSample[],
  shaped: readonly ShapedSample[],
  { items, uninformative, cap }: Selection,
  { balance }: ObjectiveSettings,
): TrainingSetStatistics {
  const counts = (category?: string): SampleCounts => {
    const within = <T extends { category: string }>(all: readonly T[]): readonly T[] =>
      category === undefined ? all : all.filter((one) => one.category === category);
    const scored = within(shaped);
    return {
      samples: within(samples).length,
      scored: scored.length,
      prompts: new Set(within(samples).map(({ promptId }) => promptId)).size,
      acceptanceRate:
        scored.length === 0 ? 0 : scored.filter(({ accepted }) => accepted).length / scored.length,
      items: within(items).length,
    };
  };
  const overall = counts();
  const categories = [...new Set(samples.map(({ category }) => category))].toSorted(compare);
  const raw = shaped.map(({ rawReward }) => rawReward);
  const plan = planBatches(items, { seed: 0, batchSize: 1, balance, weighting: 'resample' });
  const scoredPrompts = new Set(shaped.map(({ promptId }) => promptId)).size;
  return {
    ...overall,
    perCategory: Object.fromEntries(categories.map((category) => [category, counts(category)])),
    reward: {
      mean: mean(raw),
      standardDeviation: standardDeviation(raw),
      lowest: min(raw),
      highest: max(raw),
    },
    uninformativePromptRatio: uninformative.length / scoredPrompts,
    uninformativePrompts: uninformative,
    effectiveSampleSize: plan.effectiveSampleSize,
    ...(cap === undefined ? {} : { cap }),
  };
}

function deepFreeze<T>(value: T): T {
  if (value !== null && typeof value === 'object' && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const part of Object.values(value)) deepFreeze(part);
  }
  return value;
}
