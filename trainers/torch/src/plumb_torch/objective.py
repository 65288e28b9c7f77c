"""From predictions to the loss of a job's algorithm: one row of the table in packages/objective/src/algorithms.ts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from .denoiser import Denoiser
from .feeds import Feeds
from .losses import Predictions, dpo, forward_projection, kto
from .settings import FORWARD
from .settings import Objective as ObjectiveSettings
from .video_dit import noised_and_target


class TrainingLoss(nn.Module):
    """
    The loss of a job on rows of a batch, with scalars to report, as means over the rows.

    One module, so that data-parallel wrappers see a single forward pass whatever the algorithm runs in it.
    """

    def __init__(
        self,
        settings: ObjectiveSettings,
        policy: Denoiser,
        reference: Denoiser | None,
        batch_mean: Callable[[Tensor], Tensor],
    ) -> None:
        """
        `reference` is frozen; None is the policy without its adapters. `batch_mean` is a mean over the rows of all processes.
        """
        super().__init__()
        self.settings = settings
        self.policy = policy
        self.reference = reference
        self.batch_mean = batch_mean

    def forward(self, feeds: Feeds) -> tuple[Tensor, dict[str, Tensor]]:
        settings = self.settings
        if settings.algorithm in FORWARD:
            (one,) = self._predict(feeds, [feeds.x0], feeds.text, settings.kl_anchor > 0)
            target, policy, reference = one
            return forward_projection(target, policy, reference, feeds.weights, settings.kl_anchor)
        if settings.algorithm == "dpo":
            if feeds.rejected is None:
                raise TypeError("items of dpo are pairs")
            chosen, rejected = self._predict(feeds, [feeds.x0, feeds.rejected], feeds.text, True)
            return dpo(_whole(chosen), _whole(rejected), feeds.weights, settings.beta, settings.sft_anchor)
        if feeds.accepted is None:
            raise TypeError("items of kto are labelled")
        (own,) = self._predict(feeds, [feeds.x0], feeds.text, True)
        mismatched = None
        if settings.kl_estimate == "mismatched":
            # Only the reference point reads it, through which nothing is differentiated.
            with torch.no_grad():
                (other,) = self._predict(feeds, [feeds.x0], feeds.mismatched, True)
            mismatched = _whole(other)
        return kto(
            _whole(own),
            mismatched,
            feeds.accepted,
            feeds.weights,
            settings.beta,
            settings.sft_anchor,
            self.batch_mean,
        )

    def _predict(
        self, feeds: Feeds, clips: list[Tensor], text: dict[str, Tensor], with_reference: bool
    ) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Target, policy and reference for each of several clips a row, in one pass of each model."""
        parameterisation = self.policy.parameterisation
        pairs = [noised_and_target(parameterisation, clip, feeds.noise, feeds.signal, feeds.noise_level) for clip in clips]
        noised = torch.cat([one for one, _ in pairs])
        many = {name: torch.cat([tensor] * len(clips)) for name, tensor in (feeds.levels | text).items()}
        policy = self.policy(noised, many).chunk(len(clips))
        reference: tuple[Tensor | None, ...] = (None,) * len(clips)
        if with_reference:
            reference = predict_reference(self.policy, self.reference, noised, many).chunk(len(clips))
        return [(target, mine, other) for (_, target), mine, other in zip(pairs, policy, reference, strict=True)]


def predict_reference(policy: Denoiser, reference: Denoiser | None, noised: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """What the frozen reference predicts, outside of the gradient."""
    model = policy if reference is None else reference
    with torch.no_grad(), policy.without_adapters() if reference is None else nullcontext():
        prediction: Tensor = model(noised, inputs)
    return prediction


def _whole(predictions: tuple[Tensor, Tensor, Tensor | None]) -> Predictions:
    target, policy, reference = predictions
    if reference is None:
        raise TypeError("the objective needs a reference")
    return target, policy, reference
