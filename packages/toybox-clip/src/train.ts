/** Trains toybox-clip with our own engine: the towers on captions, then two preference models on verdicts. */

import { fillGaussian, randomGenerator } from '@plumb/diffusion';
import { PlumbError } from '@plumb/kit/errors';
import { buildTrainingStep, initialTrainingState } from '@plumb/tensor-graph';
import type { TrainingProgram } from '@plumb/tensor-graph';
import type { Engine, TypedTensor } from '@plumb/tensor-graph/engine';
import { framesPerClip } from './clip-pixels.ts';
import { contrastiveBatch, preferenceBatch } from './data.ts';
import { size, textSpecs, visionSpecs } from './towers.ts';
import { contrastiveGraph, preferenceGraph, scaleSpec } from './training-graphs.ts';
import type { LossGraph } from './training-graphs.ts';

/** Weights by name. */
export type WeightValues = ReadonlyMap<string, Float32Array>;

/** How one stage is trained. The rate falls linearly to 0 over the last half. */
export interface StageSettings {
  readonly steps: number;
  /** Clips, or pairs of clips, a step. */
  readonly batch: number;
  readonly learningRate: number;
}

/** Called after every step. */
export type OnStep = (step: number, metrics: Readonly<Record<string, number>>) => void;

/** Fresh weights from a seed. */
export function initialWeights(seed: string): WeightValues {
  return new Map(
    [...visionSpecs, ...textSpecs, scaleSpec].map(({ name, shape, initialStd, initialMean }) => {
      const values = new Float32Array(shape.reduce((total, extent) => total * extent, 1));
      if (initialStd > 0) fillGaussian(values, randomGenerator(seed, 'weights', name));
      return [name, values.map((value) => value * initialStd + initialMean)];
    }),
  );
}

/** Trains both towers and the scale on captions and clips. */
export function trainContrastive(
  engine: Engine,
  start: WeightValues,
  settings: StageSettings,
  seed: string,
  onStep: OnStep,
): Promise<WeightValues> {
  const { batch } = settings;
  return runStage(engine, contrastiveGraph(batch), start, [...start.keys()], settings, onStep, (step) => {
    const { frames, tokens } = contrastiveBatch(seed, step, batch);
    return { frames: frameTensor(frames, batch), tokens: tokenTensor(tokens, batch) };
  });
}

/**
 * Trains a preference model from the contrastive one. The text tower stays as it is, so that all share it.
 * @param trained names of the weights that change, all of the vision tower
 * @param steepness scale of cosines
 */
export function trainPreference(
  engine: Engine,
  start: WeightValues,
  trained: readonly string[],
  steepness: number,
  settings: StageSettings,
  seed: string,
  onStep: OnStep,
): Promise<WeightValues> {
  const { batch } = settings;
  return runStage(engine, preferenceGraph(batch, steepness), start, trained, settings, onStep, (step) => {
    const { accepted, rejected, tokens } = preferenceBatch(seed, step, batch);
    return {
      accepted: frameTensor(accepted, batch),
      rejected: frameTensor(rejected, batch),
      tokens: tokenTensor(tokens, batch),
    };
  });
}

function frameTensor(data: Float32Array, clips: number): TypedTensor {
  return { dtype: 'float32', shape: [clips * framesPerClip, 3, size.picture, size.picture], data };
}

function tokenTensor(data: Int32Array, rows: number): TypedTensor {
  return { dtype: 'int32', shape: [rows, size.textLength], data };
}

async function runStage(
  engine: Engine,
  { graph, loss, metrics }: LossGraph,
  start: WeightValues,
  trained: readonly string[],
  { steps, learningRate }: StageSettings,
  onStep: OnStep,
  feeds: (step: number) => Record<string, TypedTensor>,
): Promise<WeightValues> {
  const changes = new Set(trained);
  const program: TrainingProgram = buildTrainingStep({
    graph,
    loss,
    metrics,
    parameters: graph.parameters
      .filter(({ source }) => source.kind === 'input' && changes.has(source.name))
      .map((tensor) => ({ tensor, weightDecay: tensor.shape.length > 1 })),
    frozen: new Map([...start].filter(([name]) => !changes.has(name))),
    optimiser: { beta2: 0.98, weightDecay: 0.02, clipNorm: 1, ema: true },
  });
  const id = await engine.openTraining(
    'toybox-clip',
    program,
    initialTrainingState(program, Object.fromEntries(start)),
    {
      lanes: 1,
    },
  );
  let next = feeds(0);
  for (let step = 0; step < steps; step += 1) {
    const warm = Math.min((step + 1) / 50, 1);
    const rate = learningRate * warm * Math.min(2 * (1 - step / steps), 1);
    const running = engine.trainStep(id, next, {
      learningRate: rate,
      emaDecay: Math.min(0.99, (step + 1) / (step + 10)),
    });
    // The next batch is rendered while the engine works on this one.
    if (step + 1 < steps) next = feeds(step + 1);
    const result = await running;
    if (!Number.isFinite(result['loss'])) {
      throw new PlumbError({
        code: 'INTERNAL',
        reason: 'TRAINING_DIVERGED',
        message: `toybox-clip diverged at step ${step}: loss ${result['loss']}; lower the learning rate ${learningRate}`,
      });
    }
    onStep(step + 1, result);
  }
  const { ema } = await engine.readTraining(id);
  await engine.closeTraining(id);
  return new Map([...start].map(([name, values]) => [name, ema[name] ?? values]));
}
