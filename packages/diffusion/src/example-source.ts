import { dataLoss } from '@plumb/kit/errors';
import type { Clip } from '@plumb/media';
import { mismatchPrompts, planBatches } from '@plumb/objective';
import type { TrainingItem, TrainingSet } from '@plumb/objective';
import { clipSize, type VideoModelConfig } from './config.ts';
import type { LatentExample, TextEmbedding } from './network-training.ts';
import { clipToModel } from './pixels.ts';
import { tokenise } from './tokeniser.ts';
import type { TrainingExample } from './training-batch.ts';

/** One batch as the training step takes it. */
export interface ExampleBatch<Example = TrainingExample> {
  readonly examples: readonly Example[];
}

/** Examples of every step of a job; `batch(k)` follows from k alone. */
export interface ExampleSource<Example = TrainingExample> {
  /**
   * Standard deviation of the weights of the whole set, whose mean is 1: 0 says that the reward makes no difference. Of the set
   * and not of what is drawn, which under `resample` is nearly all of one weight. Undefined where items have no weights.
   */
  readonly weightSpread: number | undefined;
  /** @param step from 0 */
  batch(step: number): ExampleBatch<Example>;
  /** Examples of at most `count` items, spread evenly over the set: the same for the same set. */
  probe(count: number): readonly Example[];
}

/** How batches are drawn. */
interface DrawOptions<Example> {
  readonly set: TrainingSet;
  readonly batchSize: number;
  readonly seed: number;
  /** @param mismatched another prompt of the batch, where the objective wants one */
  readonly exampleOf: (item: TrainingItem, weight: number, mismatched: string | undefined) => Example;
}

function drawExamples<Example>({
  set,
  batchSize,
  seed,
  exampleOf,
}: DrawOptions<Example>): ExampleSource<Example> {
  const { settings } = set;
  const plan = planBatches(set.items, {
    seed,
    batchSize,
    balance: settings.balance,
    weighting: 'weighting' in settings ? settings.weighting : 'resample',
  });
  const mismatched = settings.algorithm === 'kto' && settings.klEstimate === 'mismatched';
  const weights = set.items.flatMap((item) => (item.kind === 'weighted-sample' ? [item.weight] : []));
  return {
    weightSpread: weights.length > 0 ? spread(weights) : undefined,
    probe(count) {
      const size = Math.min(count, set.items.length);
      return Array.from(
        { length: size },
        (_, index) => set.items[Math.floor((index * set.items.length) / size)],
      )
        .filter((item) => item !== undefined)
        .map((item) => exampleOf(item, 1, undefined));
    },
    batch(step) {
      const { indices, lossWeights } = plan.batch(step);
      const drawn = Array.from(indices, (index) => set.items[index]).filter((item) => item !== undefined);
      const prompts = drawn.map(({ promptId }) => promptId);
      const others = mismatched ? mismatchPrompts(prompts) : undefined;
      return {
        examples: drawn.map((item, place) =>
          exampleOf(
            item,
            lossWeights[place] ?? 1,
            others === undefined ? undefined : (prompts[others[place] ?? 0] ?? ''),
          ),
        ),
      };
    },
  };
}

/**
 * Draws batches from a training set.
 * @param clips by sample id, for every sample that the set uses; kept as bytes, a quarter of the memory of model values
 * @param captions by prompt id
 * @throws PlumbError INVALID_ARGUMENT (PROMPT_UNKNOWN_WORD) naming a word that the model does not know
 */
export function exampleSource(options: {
  readonly config: VideoModelConfig;
  readonly set: TrainingSet;
  readonly clips: ReadonlyMap<string, Clip>;
  readonly captions: ReadonlyMap<string, string>;
  readonly batchSize: number;
  readonly seed: number;
}): ExampleSource {
  const { config, set, clips, captions } = options;
  const tokens = new Map<string, Int32Array>();
  for (const { promptId } of set.items) {
    const caption = captions.get(promptId);
    if (caption === undefined) throw dataLoss(`the data set has no text for prompt ${promptId}`);
    if (!tokens.has(promptId)) tokens.set(promptId, tokenise(config, caption));
  }
  const tokensOf = (promptId: string): Int32Array =>
    tokens.get(promptId) ?? new Int32Array(config.caption.maxWords);
  const clipOf = (sampleId: string): Float32Array => {
    const clip = clips.get(sampleId);
    if (clip === undefined) throw dataLoss(`the clip of sample ${sampleId} was not loaded`);
    const values = new Float32Array(clipSize(config));
    clipToModel(config, clip, values);
    return values;
  };
  return drawExamples<TrainingExample>({
    ...options,
    exampleOf: (item, weight, mismatched) => {
      const shared = {
        tokens: tokensOf(item.promptId),
        weight,
        ...(mismatched === undefined ? {} : { mismatchedTokens: tokensOf(mismatched) }),
      };
      switch (item.kind) {
        case 'weighted-sample':
          return { ...shared, clip: clipOf(item.sampleId) };
        case 'pair':
          return { ...shared, clip: clipOf(item.chosenId), rejected: clipOf(item.rejectedId) };
        case 'labelled-sample':
          return { ...shared, clip: clipOf(item.sampleId), accepted: item.accepted };
        default:
          throw new TypeError(`no item is a ${String(item satisfies never)}`);
      }
    },
  });
}

/**
 * Draws batches for an imported denoiser from a training set.
 * @param latents by sample id, for every sample that the set uses
 * @param texts of the captions, by prompt id
 */
export function latentExampleSource(options: {
  readonly set: TrainingSet;
  readonly latents: ReadonlyMap<string, Float32Array>;
  readonly texts: ReadonlyMap<string, TextEmbedding>;
  readonly batchSize: number;
  readonly seed: number;
}): ExampleSource<LatentExample> {
  const { latents, texts } = options;
  const textOf = (promptId: string): TextEmbedding => {
    const text = texts.get(promptId);
    if (text === undefined) throw dataLoss(`the data set has no text for prompt ${promptId}`);
    return text;
  };
  const latentsOf = (sampleId: string): Float32Array => {
    const values = latents.get(sampleId);
    if (values === undefined) throw dataLoss(`the latents of sample ${sampleId} were not loaded`);
    return values;
  };
  return drawExamples<LatentExample>({
    ...options,
    exampleOf: (item, weight, mismatched) => {
      const shared = {
        text: textOf(item.promptId),
        weight,
        ...(mismatched === undefined ? {} : { mismatchedText: textOf(mismatched) }),
      };
      switch (item.kind) {
        case 'weighted-sample':
          return { ...shared, latents: latentsOf(item.sampleId) };
        case 'pair':
          return { ...shared, latents: latentsOf(item.chosenId), rejected: latentsOf(item.rejectedId) };
        case 'labelled-sample':
          return { ...shared, latents: latentsOf(item.sampleId), accepted: item.accepted };
        default:
          throw new TypeError(`no item is a ${String(item satisfies never)}`);
      }
    },
  });
}

function spread(values: readonly number[]): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
}
