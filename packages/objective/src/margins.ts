import { logSigmoid, maximum, mul, neg, reduceMean, sigmoid, stopGradient, sub } from '@plumb/tensor-graph';
import type { Tensor } from '@plumb/tensor-graph';

/** From margins [b] to losses [b]. Falls as the margin rises. */
export type Link = (margin: Tensor) => Tensor;

/** -log sigma(margin): the Bradley-Terry negative log-likelihood of the label. log 2 at margin 0. */
export function negativeLogSigmoid(margin: Tensor): Tensor {
  return neg(logSigmoid(margin));
}

/** 1 - sigma(margin) = sigma(-margin): bounded, so that a mislabelled sample has a bounded pull. 0.5 at margin 0. */
export function oneMinusSigmoid(margin: Tensor): Tensor {
  return sigmoid(neg(margin));
}

/**
 * Margin of a preference pair. Z(c) of the implicit reward is the same for both and cancels.
 * @param chosen implicit rewards of the preferred samples, [b]
 * @param rejected implicit rewards of the other samples, [b], same prompts in the same order
 */
export function pairMargin(chosen: Tensor, rejected: Tensor): Tensor {
  return sub(chosen, rejected);
}

/**
 * Margin of a labelled sample: reward - z0 where accepted, z0 - reward where rejected.
 * @param rewards implicit rewards, [b]
 * @param accepted 1 where accepted, 0 where rejected, float, [b]
 * @param z0 the reference point, scalar, from `referencePoint`
 */
export function labelMargin(rewards: Tensor, accepted: Tensor, z0: Tensor): Tensor {
  return mul(sub(mul(accepted, 2), 1), sub(rewards, z0));
}

/**
 * KTO's reference point z0 = max(0, mean implicit reward): an estimate of beta KL(policy || reference), which is never
 * negative. No gradient flows through it (Ethayarajh et al., arXiv 2402.01306, section 4.1).
 * @param rewards implicit rewards [b], of samples under *mismatched* prompts for the estimate of that paper
 * @returns scalar
 */
export function referencePoint(rewards: Tensor): Tensor {
  return stopGradient(maximum(reduceMean(rewards), 0));
}
