import { dpoLoss, forwardProjectionLoss, ktoLoss, type ObjectiveSettings } from '@plumb/objective';
import { concat, Graph, split, type Tensor } from '@plumb/tensor-graph';
import { clipShape, type VideoModelConfig } from './config.ts';
import { noiseAndTarget } from './parameterisation.ts';
import { weightOf } from './sampling-graph.ts';
import { denoise, parameterSpecs } from './video-dit.ts';

/** Prefix of the names of the frozen reference's weights, which are initialisers of the graph. */
export const REFERENCE_PREFIX = 'reference/';

/** Forward half of a training step: what the optimiser is built on. */
export interface TrainingGraph {
  readonly graph: Graph;
  /** The scalar to minimise. */
  readonly loss: Tensor;
  /** Scalars to report, by name. */
  readonly metrics: Readonly<Record<string, Tensor>>;
  /** The policy's weights, in the order of `parameterSpecs`. */
  readonly parameters: readonly Tensor[];
  /** Whether the graph reads the reference's weights, named `reference/<name>`. */
  readonly usesReference: boolean;
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
 */
export function trainingGraph(
  config: VideoModelConfig,
  settings: ObjectiveSettings,
  batch: number,
): TrainingGraph {
  const graph = new Graph();
  const specs = parameterSpecs(config);
  const parameters = specs.map((spec) => graph.parameter(spec.name, spec.shape));
  const policyWeights = new Map(specs.map((spec, index) => [spec.name, parameters[index] as Tensor]));
  const referenceWeights = new Map<string, Tensor>();
  const referenceWeight = (name: string): Tensor => {
    let weight = referenceWeights.get(name);
    if (weight === undefined) {
      weight = graph.input(`${REFERENCE_PREFIX}${name}`, 'float32', weightOf(policyWeights, name).shape);
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
    return denoise(config, weight, {
      noised,
      tokens: captions,
      time: repeat(time),
      skip: repeat(levels.skip),
      in: repeat(levels.in),
      out: repeat(levels.out),
    });
  };
  const policy = (noised: Tensor, captions: Tensor, copies = 1): Tensor =>
    predict((name) => weightOf(policyWeights, name), noised, captions, copies);
  const reference = (noised: Tensor, captions: Tensor, copies = 1): Tensor =>
    predict(referenceWeight, noised, captions, copies);
  const noised = (clip: Tensor): { noised: Tensor; target: Tensor } =>
    noiseAndTarget(config.parameterisation, clip, noise, signal, noiseLevel);

  const terms = ((): { loss: Tensor; metrics: Readonly<Record<string, Tensor>> } => {
    switch (settings.algorithm) {
      case 'sft':
      case 'filtered-sft':
      case 'rwr': {
        const own = noised(x0);
        return forwardProjectionLoss(settings, {
          target: own.target,
          policy: policy(own.noised, tokens),
          weights,
          ...(settings.klAnchor > 0 ? { reference: reference(own.noised, tokens) } : {}),
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
        const own = noised(x0);
        const of = (captions: Tensor): Predictions => ({
          target: own.target,
          policy: policy(own.noised, captions),
          reference: reference(own.noised, captions),
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
    parameters,
    usesReference: referenceWeights.size > 0,
  };
}
