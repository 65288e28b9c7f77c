"""The losses of docs/method.md, written from the formulas of the papers in plain PyTorch."""

import torch
import torch.nn.functional as F


def distance(a, b):
    """Mean of squared differences over the elements of each sample."""
    return F.mse_loss(a, b, reduction="none").flatten(1).mean(1)


def advantage(target, policy, reference):
    """d(x) = ||target - policy||^2 - ||target - reference||^2."""
    return distance(target, policy) - distance(target, reference)


def forward_projection(target, policy, reference, weights, anchor):
    """mean of w ||target - policy||^2 + anchor ||policy - reference||^2"""
    errors = distance(target, policy)
    loss = (weights * errors).mean()
    metrics = {"squared_error": errors.mean()}
    if reference is not None:
        moved = distance(policy, reference).mean()
        loss = loss + anchor * moved
        metrics["anchor_distance"] = moved
    return loss, metrics


def sft_anchor(loss, metrics, anchor, errors, weights, share):
    """Adds anchor * mean of w ||target - policy||^2; `share` of the samples have an error that counts."""
    if anchor == 0:
        return loss, metrics
    return loss + anchor * (weights * errors).mean(), {**metrics, "sft_error": errors.mean() / share}


def dpo(chosen, rejected, weights, beta, anchor=0.0):
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


def kto(own, mismatched, accepted, weights, beta, anchor=0.0):
    """KTO, arXiv 2402.01306, equation 8, with lambda in the weights: 1 - sigma(r - z0) or 1 - sigma(z0 - r)."""
    rewards = -beta * advantage(*own)
    estimate = rewards if mismatched is None else -beta * advantage(*mismatched)
    z0 = estimate.mean().clamp(min=0).detach()
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
    share = accepted.mean().clamp(min=1 / len(accepted))
    return sft_anchor(loss, metrics, anchor, accepted * distance(own[0], own[1]), weights, share)
