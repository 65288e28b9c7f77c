import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  clipSize,
  encodeModel,
  fillGaussian,
  randomGenerator,
  trainingFeeds,
  type OptimisationSettings,
  type VideoModel,
} from '@plumb/diffusion';
import { writeSafetensors } from '@plumb/tensor-graph/safetensors';

/** What a training process is told. */
export interface TrainingProcessSettings {
  readonly threads: number;
  readonly optimisation: OptimisationSettings;
}

/** What a training process answers after a step. */
export interface StepReport {
  readonly seconds: number;
  /** Of all threads of the process. */
  readonly cpuSeconds: number;
  readonly loss: number;
  readonly gradientNorm: number;
  /** Largest resident memory of the process so far. */
  readonly peakBytes: number;
}

/** Writes a model and a batch of random clips with captions, and returns the paths. */
export async function writeTrainingInputs(
  folder: string,
  name: string,
  model: VideoModel,
  optimisation: OptimisationSettings,
): Promise<readonly [model: string, feeds: string]> {
  const { config } = model;
  const random = randomGenerator('bench', 'clips');
  const words = config.caption.vocabulary.length;
  const examples = Array.from({ length: optimisation.batchSize }, () => ({
    clip: fillGaussian(new Float32Array(clipSize(config)), random).map((value) => config.sigmaData * value),
    tokens: Int32Array.from({ length: config.caption.maxWords }, () => 1 + ((random.next() >>> 0) % words)),
    weight: 1,
  }));
  const feeds = trainingFeeds(config, examples, {
    seed: 'bench',
    step: 0,
    timesteps: optimisation.timesteps,
    captionDropout: optimisation.captionDropout,
  });
  const modelPath = join(folder, `${name}.model.safetensors`);
  const feedsPath = join(folder, `${name}.feeds.safetensors`);
  await writeFile(modelPath, encodeModel(model));
  await writeFile(feedsPath, writeSafetensors(new Map(Object.entries(feeds))));
  return [modelPath, feedsPath];
}

/** The middle of some numbers. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  const [low, high] = [sorted[Math.ceil(middle) - 1], sorted[Math.floor(middle)]];
  if (low === undefined || high === undefined) throw new RangeError('nothing was measured');
  return (low + high) / 2;
}

/** The exponent p of time = c * size^p that fits best: 1 is linear growth, 2 quadratic. */
export function growthExponent(points: readonly (readonly [size: number, seconds: number])[]): number {
  const logs = points.map(([size, seconds]) => [Math.log(size), Math.log(seconds)] as const);
  const mean = (axis: 0 | 1): number => logs.reduce((sum, point) => sum + point[axis], 0) / logs.length;
  const [x, y] = [mean(0), mean(1)];
  const covariance = logs.reduce((sum, point) => sum + (point[0] - x) * (point[1] - y), 0);
  const variance = logs.reduce((sum, point) => sum + (point[0] - x) ** 2, 0);
  return covariance / variance;
}
