import { add, cast, div, greater, maximum, mul, reduceMean, reshape, square, sub } from '@plumb/tensor-graph';
import type { Tensor } from '@plumb/tensor-graph';
import { invalidArgument } from '@plumb/kit/errors';
import { algorithms } from './algorithms.ts';
import { referencePoint } from './margins.ts';
import type { Link } from './margins.ts';
import type { SettingsOf } from './settings.ts';

/**
 * A scalar to minimise and scalars to watch, all float32. `loss` is differentiable in the policy's parameters; so are
 * the metrics, which nobody should differentiate.
 */
export interface Objective {
  readonly loss: Tensor;
  readonly metrics: Readonly<Record<string, Tensor>>;
}

/**
 * What a denoiser and its frozen reference predicted for the same noised clips: x_t, t and prompt are shared. All
 * [b, ...] of one shape. `target` is whatever the parameterisation predicts (epsilon, v or flow); the losses are the same.
 */
export interface Predictions {
  readonly target: Tensor;
  readonly policy: Tensor;
  /** Computed from frozen weights, outside of the gradient. */
  readonly reference: Tensor;
}

/**
 * ||a - b||^2 of each sample as the *mean over its elements*, which makes it independent of the clip's size.
 * @param a [b, ...]
 * @param b the same shape
 * @returns [b]
 */
export function squaredErrorPerSample(a: Tensor, b: Tensor): Tensor {
  if (a.shape.length !== b.shape.length || a.shape.some((extent, axis) => extent !== b.shape[axis])) {
    throw invalidArgument(
      'squaredErrorPerSample.b',
      `has shape [${b.shape.join(', ')}], but a has [${a.shape.join(', ')}]; target, policy and reference share one shape`,
    );
  }
  const batch = a.shape[0] ?? 1;
  return reduceMean(reshape(square(sub(a, b)), [batch, -1]), { axes: [1] });
}

/**
 * The implicit reward beta log(p_policy / p_ref) of each sample, by the denoising bound: -beta d(x) with
 * d(x) = ||target - policy||^2 - ||target - reference||^2. beta log Z(c), the same for all samples of a prompt, is
 * left out.
 * @returns [b]; 0 where the policy equals the reference
 */
export function implicitReward(beta: number, { target, policy, reference }: Predictions): Tensor {
  const difference = sub(squaredErrorPerSample(target, policy), squaredErrorPerSample(target, reference));
  return mul(difference, -beta);
}

/**
 * Forward-EM-projection: the mean of w(x) times the negative log-likelihood, or its bound. Not divided by the batch's
 * own sum of weights, which would bias small batches.
 * @param weights [b], expectation 1, such as `Batch.lossWeights`
 * @param errors [b]
 * @returns scalar
 */
export function forwardProjection(weights: Tensor, errors: Tensor): Tensor {
  return reduceMean(mul(weights, errors));
}

/**
 * Reverse-BT-projection: the weighted mean of the link of the margins.
 * @param margins [b]
 * @returns scalar
 */
export function reverseProjection(link: Link, margins: Tensor, weights: Tensor): Tensor {
  return reduceMean(mul(weights, link(margins)));
}

/**
 * The SFT anchor of the reverse projections, where its lambda is above 0: lambda times the weighted mean of the policy's
 * squared errors on the samples that feedback liked. Metric `sft_error`: the mean of these errors, unweighted.
 * @param liked errors [b], 0 for samples that were not liked, and the share of the batch that was
 */
function withSftAnchor(
  lambda: number,
  { loss, metrics }: Objective,
  weights: Tensor,
  liked: () => { readonly errors: Tensor; readonly share: Tensor | number },
): Objective {
  // Nothing is added to the graph of those who do not ask for it.
  if (lambda === 0) return { loss, metrics };
  const { errors, share } = liked();
  return {
    loss: add(loss, mul(forwardProjection(weights, errors), lambda)),
    metrics: { ...metrics, sft_error: div(reduceMean(errors), share) },
  };
}

/** Settings of the algorithms that project forward. */
export type ForwardSettings = SettingsOf<'sft'> | SettingsOf<'filtered-sft'> | SettingsOf<'rwr'>;

/**
 * The loss of `sft`, `filtered-sft` and `rwr`: mean of w ||target - policy||^2, plus klAnchor times the mean of
 * ||policy - reference||^2 if that is set. The anchor is not weighted: it holds at bad samples as well.
 *
 * Metrics: `squared_error` (unweighted) and, with a reference, `anchor_distance`.
 *
 * @param inputs the reference is needed only for klAnchor > 0 and for `anchor_distance`; weights are [b]
 */
export function forwardProjectionLoss(
  settings: Pick<ForwardSettings, 'klAnchor'>,
  inputs: Omit<Predictions, 'reference'> & { readonly reference?: Tensor; readonly weights: Tensor },
): Objective {
  const { target, policy, reference, weights } = inputs;
  const errors = squaredErrorPerSample(target, policy);
  const projection = forwardProjection(weights, errors);
  const metrics = { squared_error: reduceMean(errors) };
  if (reference === undefined) {
    if (settings.klAnchor === 0) return { loss: projection, metrics };
    throw invalidArgument(
      'inputs.reference',
      `is missing, but klAnchor is ${settings.klAnchor}; run the reference model as well, or set klAnchor to 0`,
    );
  }
  const distance = anchorDistance(policy, reference);
  const loss = settings.klAnchor === 0 ? projection : add(projection, mul(distance, settings.klAnchor));
  return { loss, metrics: { ...metrics, anchor_distance: distance } };
}

/**
 * The loss of `dpo`: mean of -log sigma(-(beta / 2) (d(chosen) - d(rejected))), the form of Diffusion-DPO (arXiv
 * 2311.12908, eq. 14), plus sftAnchor times the mean of w ||target - policy||^2 over the chosen. Chosen and rejected
 * share timestep and noise, which takes most of the variance out of the margin.
 *
 * Metrics: `implicit_reward_margin`, `implicit_reward_accuracy` (share of pairs with a margin above 0),
 * `implicit_reward_chosen`, `implicit_reward_rejected`, `anchor_distance`; `sft_error` with an SFT anchor.
 *
 * @param inputs predictions for the preferred clips and for the others, same prompts in the same order; weights are [b]
 */
export function dpoLoss(
  settings: Pick<SettingsOf<'dpo'>, 'beta' | 'sftAnchor'>,
  inputs: { readonly chosen: Predictions; readonly rejected: Predictions; readonly weights: Tensor },
): Objective {
  const { chosen, rejected, weights } = inputs;
  const { margin, link } = algorithms.dpo;
  const chosenRewards = implicitReward(settings.beta / 2, chosen);
  const rejectedRewards = implicitReward(settings.beta / 2, rejected);
  const margins = margin(chosenRewards, rejectedRewards);
  const distance = mul(
    add(anchorDistance(chosen.policy, chosen.reference), anchorDistance(rejected.policy, rejected.reference)),
    0.5,
  );
  const projection = {
    loss: reverseProjection(link, margins, weights),
    metrics: {
      implicit_reward_margin: reduceMean(margins),
      implicit_reward_accuracy: reduceMean(cast(greater(margins, 0), 'float32')),
      implicit_reward_chosen: reduceMean(chosenRewards),
      implicit_reward_rejected: reduceMean(rejectedRewards),
      anchor_distance: distance,
    },
  };
  return withSftAnchor(settings.sftAnchor, projection, weights, () => ({
    errors: squaredErrorPerSample(chosen.target, chosen.policy),
    share: 1,
  }));
}

/**
 * The loss of `kto`: mean of 1 - sigma(beta (-d(x)) - z0) over accepted and of 1 - sigma(z0 - beta (-d(x))) over rejected
 * samples (arXiv 2402.01306), with their weights; plus sftAnchor times the mean over the batch of w ||target - policy||^2,
 * in which rejected samples count as 0, so that with balanced classes the anchor is half as strong as in `dpo`.
 *
 * A graph built for a micro-batch estimates z0 from that micro-batch alone: noisier, and higher for max(0, .).
 *
 * Metrics: `implicit_reward_margin` (mean of +-(reward - z0) by the label), `implicit_reward_accuracy` (share on the right
 * side of z0), `reference_point` (z0), `anchor_distance`; `sft_error` (over accepted samples; 0 in a batch without any)
 * with an SFT anchor.
 *
 * @param inputs accepted is 1 or 0, float32, [b]; weights are [b]; mismatched, needed for klEstimate `mismatched`, holds the
 *   predictions for the same clips under other prompts (`mismatchPrompts`)
 */
export function ktoLoss(
  settings: Pick<SettingsOf<'kto'>, 'beta' | 'klEstimate' | 'sftAnchor'>,
  inputs: Predictions & {
    readonly accepted: Tensor;
    readonly weights: Tensor;
    readonly mismatched?: Predictions;
  },
): Objective {
  const { accepted, weights, mismatched } = inputs;
  if (settings.klEstimate === 'mismatched' && mismatched === undefined) {
    throw invalidArgument(
      'inputs.mismatched',
      'is missing, but klEstimate is mismatched; predict the batch under other prompts too, or set klEstimate to batch',
    );
  }
  const { margin, link } = algorithms.kto;
  const rewards = implicitReward(settings.beta, inputs);
  const forReferencePoint =
    settings.klEstimate === 'mismatched' && mismatched !== undefined
      ? implicitReward(settings.beta, mismatched)
      : rewards;
  const z0 = referencePoint(forReferencePoint);
  const margins = margin(rewards, accepted, z0);
  const projection = {
    loss: reverseProjection(link, margins, weights),
    metrics: {
      implicit_reward_margin: reduceMean(margins),
      implicit_reward_accuracy: reduceMean(cast(greater(margins, 0), 'float32')),
      reference_point: z0,
      anchor_distance: anchorDistance(inputs.policy, inputs.reference),
    },
  };
  return withSftAnchor(settings.sftAnchor, projection, weights, () => ({
    errors: mul(accepted, squaredErrorPerSample(inputs.target, inputs.policy)),
    // At least one sample, so that a batch of rejected ones gives 0 / 1 and not 0 / 0.
    share: maximum(reduceMean(accepted), 1 / (accepted.shape[0] ?? 1)),
  }));
}

/** Mean over the batch of ||policy - reference||^2 (mean over elements): how far training has moved the model. */
function anchorDistance(policy: Tensor, reference: Tensor): Tensor {
  return reduceMean(squaredErrorPerSample(policy, reference));
}
