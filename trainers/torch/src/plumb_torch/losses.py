"""The losses of docs/method.md, written from the formulas of the papers in plain PyTorch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Target, policy's prediction and reference's prediction for the same noised clips, each [batch, ...].
Predictions = tuple[Tensor, Tensor, Tensor]
Objective = tuple[Tensor, dict[str, Tensor]]


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean of squared differences over the elements of each sample, [batch]."""
    return F.mse_loss(a, b, reduction="none").flatten(1).mean(1)


def advantage(target: Tensor, policy: Tensor, reference: Tensor) -> Tensor:
    """d(x) = ||target - policy||^2 - ||target - reference||^2, [batch]."""
    return distance(target, policy) - distance(target, reference)


def forward_projection(target: Tensor, policy: Tensor, reference: Tensor | None, weights: Tensor, anchor: float) -> Objective:
    """mean of w ||target - policy||^2 + anchor ||policy - reference||^2"""
    errors = distance(target, policy)
    loss = (weights * errors).mean()
    metrics = {"squared_error": errors.mean()}
    if reference is not None:
        moved = distance(policy, reference).mean()
        loss = loss + anchor * moved
        metrics["anchor_distance"] = moved
    return loss, metrics


def sft_anchor(
    loss: Tensor,
    metrics: dict[str, Tensor],
    anchor: float,
    errors: Tensor,
    weights: Tensor,
    share: Tensor | float,
) -> Objective:
    """Adds anchor * mean of w ||target - policy||^2; `share` of the samples have an error that counts."""
    if anchor == 0:
        return loss, metrics
    return loss + anchor * (weights * errors).mean(), {**metrics, "sft_error": errors.mean() / share}


def dpo(chosen: Predictions, rejected: Predictions, weights: Tensor, beta: float, anchor: float = 0.0) -> Objective:
    """Diffusion-DPO, arXiv 2311.12908, equation 14, with the squared errors as means over elements."""
    won, lost = advantage(*chosen), advantage(*rejected)
    inside = -(beta / 2) * (won - lost)
    metrics = {
        "implicit_reward_margin": inside.mean(),
        "implicit_reward_accuracy": (inside > 0).double().mean(),
        "implicit_reward_chosen": (-(beta / 2) * won).mean(),
        "implicit_reward_rejected": (-(beta / 2) * lost).mean(),
        "anchor_distance": torch.cat([distance(*chosen[1:]), distance(*rejected[1:])]).mean(),
    }
    loss = (-F.logsigmoid(inside) * weights).mean()
    return sft_anchor(loss, metrics, anchor, distance(chosen[0], chosen[1]), weights, 1.0)


def kto(
    own: Predictions,
    mismatched: Predictions | None,
    accepted: Tensor,
    weights: Tensor,
    beta: float,
    anchor: float = 0.0,
    batch_mean: Callable[[Tensor], Tensor] = torch.mean,
) -> Objective:
    """
    KTO, arXiv 2402.01306, equation 8, with lambda in the weights: 1 - sigma(r - z0) or 1 - sigma(z0 - r).

    `batch_mean` is the mean over the whole batch where a process has only rows of it; nothing is differentiated through it.
    """
    rewards = -beta * advantage(*own)
    estimate = rewards if mismatched is None else -beta * advantage(*mismatched)
    z0 = batch_mean(estimate.detach()).clamp(min=0)
    values = torch.where(accepted > 0.5, torch.sigmoid(rewards - z0), torch.sigmoid(z0 - rewards))
    margins = torch.where(accepted > 0.5, rewards - z0, z0 - rewards)
    metrics = {
        "implicit_reward_margin": margins.mean(),
        "implicit_reward_accuracy": (margins > 0).double().mean(),
        "reference_point": z0,
        "anchor_distance": distance(own[1], own[2]).mean(),
    }
    loss = ((1 - values) * weights).mean()
    # Rejected samples count as 0, and a batch of them alone has an error of 0 and not of 0 / 0.
    share = batch_mean(accepted).clamp(min=1 / len(accepted))
    return sft_anchor(loss, metrics, anchor, accepted * distance(own[0], own[1]), weights, share)
