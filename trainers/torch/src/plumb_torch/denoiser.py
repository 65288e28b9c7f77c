"""What training needs of a model, whatever kind it is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class TrainedParameter:
    """A parameter that is trained, by the name that files give it."""

    name: str
    parameter: nn.Parameter
    # Multiplies the learning rate.
    rate_scale: float
    # Whether weight decay applies: to matrices, not to biases and tables.
    decays: bool


class Denoiser(nn.Module):
    """
    A model that predicts noise, velocity or flow: `forward(noised, inputs)`, where `inputs` are what it is told of noise
    level and caption.
    """

    parameterisation: str

    def trained(self) -> list[TrainedParameter]:
        """In a fixed order. Parameters change their identity when a model is sharded: ask again then."""
        raise NotImplementedError

    def blocks(self) -> Iterable[nn.Module]:
        """Parts that are sharded, and computed a second time for the gradient, one by one."""
        raise NotImplementedError

    def without_adapters(self) -> AbstractContextManager[None]:
        """The base, while the context lasts."""
        raise NotImplementedError

    def forward(self, noised: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError


def matches(pattern: str, name: str) -> bool:
    """Whether a name is of a pattern, in which * stands for any characters."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None
