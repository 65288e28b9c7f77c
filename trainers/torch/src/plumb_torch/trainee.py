"""A model with its data, ready to be trained, whatever kind it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .denoiser import Denoiser
from .feeds import Feeds
from .tensor_file import Array
from .training_set import Item


@dataclass(frozen=True)
class DrawnItem:
    """An item of a batch."""

    item: Item
    weight: float
    # Another prompt of the batch, where kto wants one.
    mismatched: str | None


@dataclass(frozen=True)
class Output:
    """What a trained model is stored as."""

    # The model, or None where adapters are all that there is.
    model: bytes | None
    # None where all weights were trained.
    adapters: bytes | None


class Trainee:
    """A model that is trained, with the clips and captions of its items."""

    policy: Denoiser
    # Frozen; None is the policy without its adapters.
    reference: Denoiser | None
    parameter_count: int

    def feeds(self, batch: Sequence[DrawnItem], rows: range, *, seed: str, step: int, caption_dropout: float) -> Feeds:
        """The inputs of a step, counted from 0, for some rows of its batch."""
        raise NotImplementedError

    def encode(self, values: Mapping[str, Array]) -> Output:
        """Files of trained values, by name of parameter."""
        raise NotImplementedError


def stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """[rows, ...]"""
    return np.stack(arrays).astype(np.float32, copy=False)
