import { failedPrecondition, invalidArgument } from '@plumb/kit/errors';
import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64';
import { keyedGenerator, shuffled } from './randomness.ts';
import type { ObjectiveSettings, SettingsOf } from './settings.ts';

/** What the sampler needs to know of a training item. */
export interface Drawable {
  /** Above 0. */
  readonly weight: number;
  readonly category: string;
  readonly promptId: string;
}

export interface BatchPlanOptions {
  /** Two plans with the same items, options and seed are the same plan. */
  readonly seed: number;
  /** Items a step, at least 1. */
  readonly batchSize: number;
  /** Groups of equal mass; see the settings. */
  readonly balance: ObjectiveSettings['balance'];
  /** Whether a weight acts through the draw or through the loss; see the settings. */
  readonly weighting: SettingsOf<'rwr'>['weighting'];
}

/** The items of one step. */
export interface Batch {
  /** Positions in the list of items, [batchSize]. An item may occur more than once. */
  readonly indices: Int32Array;
  /** The weight of each draw in the loss, [batchSize]; all 1 under `resample`, expectation 1 under `multiply`. */
  readonly lossWeights: Float32Array;
}

/** Which items every step of a training job sees, without state: `batch(k)` follows from the seed and k alone. */
export interface BatchPlan {
  /** Steps after which every item has been drawn as often as its probability says, give or take one. */
  readonly stepsPerEpoch: number;
  /** Probability that a given draw is item i; sums to 1. */
  readonly probabilities: Float64Array;
  /** Kish's effective sample size of the data as the loss sees it: draws and loss weights together. */
  readonly effectiveSampleSize: number;
  /** @param step from 0 */
  batch(step: number): Batch;
}

/**
 * Plans batches whose expected gradient is the weighted mean over items, each group of `balance` having equal mass.
 *
 * An epoch of E = ceil(items / batchSize) steps is one systematic resampling of E * batchSize draws: equally spaced
 * points with one random offset over the items' cumulative probabilities, so that item i is drawn floor or ceil of
 * (draws * probability) times and exactly that often on average. Items lie in random order within their group, and the
 * draws are dealt to the steps in turn: every batch holds the groups as evenly as whole numbers allow, and repeats of a
 * heavy item fall in different steps. With equal weights and no remainder an epoch is an ordinary shuffled pass.
 *
 * @throws PlumbError FAILED_PRECONDITION for no items; INVALID_ARGUMENT for a weight that is not above 0 or a bad size
 */
export function planBatches(items: readonly Drawable[], options: BatchPlanOptions): BatchPlan {
  const { seed, batchSize, balance, weighting } = options;
  if (!Number.isSafeInteger(batchSize) || batchSize < 1) {
    throw invalidArgument('batchSize', `is ${batchSize}; must be a whole number of at least 1`);
  }
  if (items.length === 0) {
    throw failedPrecondition('items: the training set is empty; there is nothing to draw batches from', {
      reason: 'DATASET_UNUSABLE',
    });
  }
  const bad = items.findIndex(({ weight }) => !(weight > 0 && weight < Infinity));
  if (bad !== -1) {
    throw invalidArgument(
      `items[${bad}].weight`,
      `is ${items[bad]?.weight}; must be finite and above 0, so leave items without weight out`,
    );
  }

  // Without balancing, grouping by category still spreads the categories over the batches.
  const groupOf = ({ category, promptId }: Drawable): string => (balance === 'prompt' ? promptId : category);
  const groups = [...Map.groupBy(items.entries(), ([, item]) => groupOf(item)).values()].map((entries) =>
    entries.map(([index]) => index),
  );
  const target = groupedProbabilities(items, groups, balance, ({ weight }) => weight);
  const probabilities =
    weighting === 'resample' ? target : groupedProbabilities(items, groups, balance, () => 1);
  const stepsPerEpoch = Math.ceil(items.length / batchSize);
  const draws = stepsPerEpoch * batchSize;

  /** All draws of an epoch, step after step. */
  const drawEpoch = (epoch: number): Int32Array => {
    const random = keyedGenerator(seed, 'epoch', epoch);
    const order = shuffled(groups, random).flatMap((group) => shuffled(group, random));
    const offset = uniformFloat64(random);
    const steps = shuffled([...Array(stepsPerEpoch).keys()], random);
    const result = new Int32Array(draws);
    let position = 0;
    let passed = probabilities[order[0] ?? 0] ?? 0;
    for (let draw = 0; draw < draws; draw++) {
      const point = (draw + offset) / draws;
      while (passed <= point && position < order.length - 1) {
        position++;
        passed += probabilities[order[position] ?? 0] ?? 0;
      }
      const step = steps[draw % stepsPerEpoch] ?? 0;
      result[step * batchSize + Math.floor(draw / stepsPerEpoch)] = order[position] ?? 0;
    }
    return result;
  };

  // The newest epoch is kept to save work; it holds nothing that (seed, epoch) does not give again.
  let cached: { epoch: number; order: Int32Array } | undefined;
  return {
    stepsPerEpoch,
    probabilities,
    effectiveSampleSize: 1 / target.reduce((squares, probability) => squares + probability ** 2, 0),
    batch(step) {
      if (!Number.isSafeInteger(step) || step < 0) {
        throw invalidArgument('step', `is ${step}; must be a whole number of at least 0`);
      }
      const epoch = Math.floor(step / stepsPerEpoch);
      if (cached?.epoch !== epoch) cached = { epoch, order: drawEpoch(epoch) };
      const start = (step % stepsPerEpoch) * batchSize;
      const indices = cached.order.slice(start, start + batchSize);
      const lossWeights = Float32Array.from(
        indices,
        (index) => (target[index] ?? 0) / (probabilities[index] ?? 1),
      );
      return { indices, lossWeights };
    },
  };
}

/** Probabilities proportional to `mass` within a group; the groups equal, or by their total mass if `none`. */
function groupedProbabilities(
  items: readonly Drawable[],
  groups: readonly (readonly number[])[],
  balance: BatchPlanOptions['balance'],
  mass: (item: Drawable) => number,
): Float64Array {
  const masses = Float64Array.from(items, mass);
  const total = masses.reduce((sum, value) => sum + value, 0);
  const result = new Float64Array(items.length);
  for (const group of groups) {
    const groupMass = group.reduce((sum, index) => sum + (masses[index] ?? 0), 0);
    const share = balance === 'none' ? groupMass / total : 1 / groups.length;
    for (const index of group) result[index] = ((masses[index] ?? 0) / groupMass) * share;
  }
  return result;
}

/**
 * Other prompts for KTO's mismatched estimate: position i of the batch takes the prompt of position `result[i]`, which
 * is never its own prompt. Prompts are rotated among the positions, so that each is used about as often as it occurs.
 * @throws PlumbError FAILED_PRECONDITION if one prompt fills more than half of the batch, where no such exchange exists
 */
export function mismatchPrompts(promptIds: readonly string[]): Int32Array {
  const groups = [...Map.groupBy(promptIds.keys(), (index) => promptIds[index] ?? '').values()];
  const largest = Math.max(0, ...groups.map((group) => group.length));
  if (2 * largest > promptIds.length) {
    throw failedPrecondition(
      `batch: one prompt fills ${largest} of ${promptIds.length} places, so its samples cannot all be given another prompt; ` +
        'use a larger batch, balance: prompt, or klEstimate: batch',
      { reason: 'DATASET_UNUSABLE' },
    );
  }
  // In an order sorted by prompt, moving on by the size of the largest group always leaves the own group.
  const sorted = groups.flat();
  const result = new Int32Array(promptIds.length);
  for (const [place, index] of sorted.entries()) {
    result[index] = sorted[(place + largest) % sorted.length] ?? 0;
  }
  return result;
}
