import { dpoLoss, forwardProjectionLoss, ktoLoss, type ObjectiveSettings } from '@plumb/objective';
import { concat, Graph, split, type Tensor, type TrainableParameter } from '@plumb/tensor-graph';
import { adaptedMatrix, adapterTargets, type AdapterSettings } from './adapters.ts';
import { clipShape, type VideoModelConfig } from './config.ts';
import type { OptimisationSettings } from './optimisation.ts';
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

/** One set of predictions for the same noised clips. */
interface Predictions {
  readonly target: Tensor;
  readonly policy: Tensor;
  readonly reference: Tensor;
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
  const x0 = graph.input('x0', 'float32', shape);
  const noise = graph.input('noise', 'float32', shape);
  const level = (name: string): Tensor => graph.input(name, 'float32', [batch, 1, 1, 1, 1]);
  const levels = { skip: level('skip'), in: level('in'), out: level('out') };
  const signal = level('signal');
  const noiseLevel = level('noiseLevel');
  const time = graph.input('time', 'float32', [batch, 1]);
  const tokens = graph.input('tokens', 'int32', [batch, config.caption.maxWords]);
  const weights = graph.input('weights', 'float32', [batch]);

  const predict = (
    weight: (name: string) => Tensor,
    noised: Tensor,
    captions: Tensor,
    copies: number,
  ): Tensor => {
    const repeat = (x: Tensor): Tensor =>
      copies === 1
        ? x
        : concat(
            Array.from({ length: copies }, () => x),
            0,
          );
    const input = {
      noised,
      tokens: captions,
      time: repeat(time),
      skip: repeat(levels.skip),
      in: repeat(levels.in),
      out: repeat(levels.out),
    };
    return denoise(config, weight, input, { rematerialise: rematerialise === 'blocks' });
  };
  const policy = (noised: Tensor, captions: Tensor, copies = 1): Tensor =>
    predict((name) => weightOf(own.weights, name), noised, captions, copies);
  const reference = (noised: Tensor, captions: Tensor, copies = 1): Tensor =>
    predict(referenceWeight, noised, captions, copies);
  const noised = (clip: Tensor): { noised: Tensor; target: Tensor } =>
    noiseAndTarget(config.parameterisation, clip, noise, signal, noiseLevel);

  const terms = ((): { loss: Tensor; metrics: Readonly<Record<string, Tensor>> } => {
    switch (settings.algorithm) {
      case 'sft':
      case 'filtered-sft':
      case 'rwr': {
        const clip = noised(x0);
        return forwardProjectionLoss(settings, {
          target: clip.target,
          policy: policy(clip.noised, tokens),
          weights,
          ...(settings.klAnchor > 0 ? { reference: reference(clip.noised, tokens) } : {}),
        });
      }
      case 'dpo': {
        const chosen = noised(x0);
        const rejected = noised(graph.input('rejected', 'float32', shape));
        // Both clips of a pair in one pass.
        const both = concat([chosen.noised, rejected.noised], 0);
        const captions = concat([tokens, tokens], 0);
        const halves = (x: Tensor): readonly [Tensor, Tensor] =>
          split(x, 0, [batch, batch]) as [Tensor, Tensor];
        const [policyChosen, policyRejected] = halves(policy(both, captions, 2));
        const [referenceChosen, referenceRejected] = halves(reference(both, captions, 2));
        return dpoLoss(settings, {
          chosen: { target: chosen.target, policy: policyChosen, reference: referenceChosen },
          rejected: { target: rejected.target, policy: policyRejected, reference: referenceRejected },
          weights,
        });
      }
      case 'kto': {
        const clip = noised(x0);
        const of = (captions: Tensor): Predictions => ({
          target: clip.target,
          policy: policy(clip.noised, captions),
          reference: reference(clip.noised, captions),
        });
        return ktoLoss(settings, {
          ...of(tokens),
          accepted: graph.input('accepted', 'float32', [batch]),
          weights,
          ...(settings.klEstimate === 'mismatched'
            ? { mismatched: of(graph.input('mismatchedTokens', 'int32', tokens.shape)) }
            : {}),
        });
      }
    }
  })();
  return {
    graph,
    loss: terms.loss,
    metrics: terms.metrics,
    parameters: own.trainable.map(({ tensor }) => tensor),
    trainable: own.trainable,
    usesBase: own.base !== undefined,
    usesReference: referenceWeights.size > 0,
  };
}
