import type { ObjectiveSettings } from '@plumb/objective';
import { concat, Graph, split, type Tensor, type TrainableParameter } from '@plumb/tensor-graph';
import { adaptedMatrix, adapterTargets, type AdapterSettings } from './adapters.ts';
import { clipShape, type VideoModelConfig } from './config.ts';
import type { OptimisationSettings } from './optimisation.ts';
import { objectiveGraph } from './objective-graph.ts';
import { noiseAndTarget } from './parameterisation.ts';
import { weightOf } from './sampling-graph.ts';
import { denoise, parameterSpecs, type ParameterSpec } from './video-dit.ts';

/** Prefix of the names of the frozen reference's weights, which are initialisers of the graph. */
export const REFERENCE_PREFIX = 'reference/';

/** Forward half of a training step: what the optimiser is built on. */
export interface TrainingGraph {
  readonly graph: Graph;
  /** The scalar to minimise. */
  readonly loss: Tensor;
  /** Scalars to report, by name. */
  readonly metrics: Readonly<Record<string, Tensor>>;
  /** What is trained: all of the policy's weights, in the order of `parameterSpecs`, or its adapters. */
  readonly parameters: readonly Tensor[];
  /** `parameters` with how each is optimised. */
  readonly trainable: readonly TrainableParameter[];
  /** Whether the graph reads the base's weights under their own names, as inputs that are not trained. */
  readonly usesBase: boolean;
  /** Whether the graph reads the reference's weights, named `reference/<name>`. */
  readonly usesReference: boolean;
}

/** Training of adapters in place of all weights. */
export interface AdaptedTraining {
  readonly settings: AdapterSettings;
  /** True when the reference is the base itself: the same weights with the adapters off, no second copy. */
  readonly referenceIsBase: boolean;
}

/** The weights of the policy on a graph. */
interface PolicyWeights {
  readonly trainable: readonly TrainableParameter[];
  /** By the names of `parameterSpecs`. */
  readonly weights: ReadonlyMap<string, Tensor>;
  /** Frozen weights of the base, by the same names; none when all weights are trained. */
  readonly base: ReadonlyMap<string, Tensor> | undefined;
}

function trainableOf(graph: Graph, spec: ParameterSpec): TrainableParameter {
  return {
    tensor: graph.parameter(spec.name, spec.shape),
    learningRateScale: spec.learningRateMultiplier,
    weightDecay: spec.weightDecay,
  };
}

/** Makes the inputs for the policy's weights: parameters, or frozen weights with adapters on some of them. */
export function policyWeights(
  graph: Graph,
  config: VideoModelConfig,
  adapters: AdapterSettings | undefined,
): PolicyWeights {
  const specs = parameterSpecs(config);
  if (adapters === undefined) {
    const trainable = specs.map((spec) => trainableOf(graph, spec));
    const weights = new Map(trainable.map(({ tensor }, index) => [specs[index]?.name ?? '', tensor]));
    return { trainable, weights, base: undefined };
  }
  const base = new Map(specs.map(({ name, shape }) => [name, graph.input(name, 'float32', shape)]));
  const weights = new Map(base);
  const trainable = adapterTargets(config, adapters).flatMap(({ matrix, a, b }) => {
    const left = trainableOf(graph, a);
    const right = trainableOf(graph, b);
    weights.set(matrix, adaptedMatrix(adapters, weightOf(base, matrix), left.tensor, right.tensor));
    return [left, right];
  });
  return { trainable, weights, base };
}

/**
 * The loss of an objective for a video model, as a graph. Inputs, for `batch` items:
 * x0 and noise [batch, 3, frames, height, width]; signal, noiseLevel, skip, in, out [batch, 1, 1, 1, 1]; time
 * [batch, 1]; tokens int32 [batch, maxWords]; weights [batch]. Pairs (dpo) have x0 of the chosen and `rejected` of the
 * rejected clip, and share everything else; labelled samples (kto) have `accepted` [batch] and, for the mismatched
 * estimate, `mismatchedTokens`. Policy and reference see the same noised clips.
 * @param adapters trains these and freezes the weights of the base, which are inputs of their own names
 * @param rematerialise whether the gradient recomputes every block
 */
export function trainingGraph(
  config: VideoModelConfig,
  settings: ObjectiveSettings,
  batch: number,
  adapters?: AdaptedTraining,
  rematerialise: OptimisationSettings['rematerialise'] = 'none',
): TrainingGraph {
  const graph = new Graph();
  const own = policyWeights(graph, config, adapters?.settings);
  const referenceWeights = new Map<string, Tensor>();
  const referenceWeight = (name: string): Tensor => {
    if (adapters?.referenceIsBase === true && own.base !== undefined) return weightOf(own.base, name);
    let weight = referenceWeights.get(name);
    if (weight === undefined) {
      weight = graph.input(`${REFERENCE_PREFIX}${name}`, 'float32', weightOf(own.weights, name).shape);
      referenceWeights.set(name, weight);
    }
    return weight;
  };

  const shape = clipShape(config, batch);
  const noise = graph.input('noise', 'float32', shape);
  const level = (name: string): Tensor => graph.input(name, 'float32', [batch, 1, 1, 1, 1]);
  const levels = { skip: level('skip'), in: level('in'), out: level('out') };
  const signal = level('signal');
  const noiseLevel = level('noiseLevel');
  const time = graph.input('time', 'float32', [batch, 1]);
  const tokens = graph.input('tokens', 'int32', [batch, config.caption.maxWords]);

  /** Several batches in one pass. */
  const predict = (
    weight: (name: string) => Tensor,
    noised: readonly Tensor[],
    captions: Tensor,
  ): readonly Tensor[] => {
    const repeated = (x: Tensor): Tensor =>
      concat(
        noised.map(() => x),
        0,
      );
    const input = {
      noised: concat(noised, 0),
      tokens: repeated(captions),
      time: repeated(time),
      skip: repeated(levels.skip),
      in: repeated(levels.in),
      out: repeated(levels.out),
    };
    const prediction = denoise(config, weight, input, { rematerialise: rematerialise === 'blocks' });
    return split(
      prediction,
      0,
      noised.map(() => batch),
    );
  };
  const { loss, metrics } = objectiveGraph(graph, settings, {
    shape,
    noised: (clip) => noiseAndTarget(config.parameterisation, clip, noise, signal, noiseLevel),
    conditioning: tokens,
    mismatched: () => graph.input('mismatchedTokens', 'int32', tokens.shape),
    policy: (noised, captions) => predict((name) => weightOf(own.weights, name), noised, captions),
    reference: (noised, captions) => predict(referenceWeight, noised, captions),
  });
  return {
    graph,
    loss,
    metrics,
    parameters: own.trainable.map(({ tensor }) => tensor),
    trainable: own.trainable,
    usesBase: own.base !== undefined,
    usesReference: referenceWeights.size > 0,
  };
}
