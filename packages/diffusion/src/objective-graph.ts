import {
  dpoLoss,
  forwardProjectionLoss,
  ktoLoss,
  type Objective,
  type ObjectiveSettings,
} from '@plumb/objective';
import type { Graph, Tensor } from '@plumb/tensor-graph';

/** Predictions of the policy and of the frozen reference for noised clips, on a graph. */
export interface Denoising<Conditioning> {
  /** Shape of a batch of clips, the batch first. */
  readonly shape: readonly number[];
  /** The clips at the noise levels of their rows, and what should be predicted for them. */
  noised(clips: Tensor): { readonly noised: Tensor; readonly target: Tensor };
  /** What the clips are of. */
  readonly conditioning: Conditioning;
  /** What other clips are of, for the mismatched estimate of kto. */
  mismatched(): Conditioning;
  /** One prediction for each of several batches that share noise levels and conditioning. */
  policy(noised: readonly Tensor[], conditioning: Conditioning): readonly Tensor[];
  /** @see policy */
  reference(noised: readonly Tensor[], conditioning: Conditioning): readonly Tensor[];
}

/** One set of predictions for the same noised clips. */
interface Predictions {
  readonly target: Tensor;
  readonly policy: Tensor;
  readonly reference: Tensor;
}

/**
 * The loss of an objective on a denoiser. Makes the inputs x0, weights [batch] and, where the objective has them,
 * `rejected` (pairs) and `accepted` [batch] (labelled samples). Policy and reference see the same noised clips.
 */
export function objectiveGraph<Conditioning>(
  graph: Graph,
  settings: ObjectiveSettings,
  denoising: Denoising<Conditioning>,
): Objective {
  const { shape, conditioning } = denoising;
  const batch = shape[0] ?? 0;
  const x0 = graph.input('x0', 'float32', shape);
  const weights = graph.input('weights', 'float32', [batch]);
  const one = (predictions: readonly Tensor[]): Tensor => {
    const [prediction] = predictions;
    if (prediction === undefined) throw new TypeError('the denoiser made no prediction');
    return prediction;
  };
  switch (settings.algorithm) {
    case 'sft':
    case 'filtered-sft':
    case 'rwr': {
      const { noised, target } = denoising.noised(x0);
      return forwardProjectionLoss(settings, {
        target,
        policy: one(denoising.policy([noised], conditioning)),
        weights,
        ...(settings.klAnchor > 0 ? { reference: one(denoising.reference([noised], conditioning)) } : {}),
      });
    }
    case 'dpo': {
      const chosen = denoising.noised(x0);
      const rejected = denoising.noised(graph.input('rejected', 'float32', shape));
      const both = [chosen.noised, rejected.noised];
      const policy = denoising.policy(both, conditioning) as readonly [Tensor, Tensor];
      const reference = denoising.reference(both, conditioning) as readonly [Tensor, Tensor];
      return dpoLoss(settings, {
        chosen: { target: chosen.target, policy: policy[0], reference: reference[0] },
        rejected: { target: rejected.target, policy: policy[1], reference: reference[1] },
        weights,
      });
    }
    case 'kto': {
      const { noised, target } = denoising.noised(x0);
      const of = (captions: Conditioning): Predictions => ({
        target,
        policy: one(denoising.policy([noised], captions)),
        reference: one(denoising.reference([noised], captions)),
      });
      return ktoLoss(settings, {
        ...of(conditioning),
        accepted: graph.input('accepted', 'float32', [batch]),
        weights,
        ...(settings.klEstimate === 'mismatched' ? { mismatched: of(denoising.mismatched()) } : {}),
      });
    }
  }
}
