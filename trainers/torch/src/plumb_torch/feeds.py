"""Inputs of one step (packages/diffusion/src/training-batch.ts and timesteps.ts): they follow from (seed, step) alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .random_stream import RandomStream, random_stream
from .settings import Timesteps


@dataclass
class Feeds:
    """
    Rows of a batch that one process trains on. Both clips of a pair share time, noise and caption.
    """

    # [rows, ...]; the chosen one of a pair.
    x0: Tensor
    noise: Tensor
    # Share of clip and noise in what the model sees, [rows].
    signal: Tensor
    noise_level: Tensor
    # What the model is told of the noise level, by the names of its arguments, and of the caption.
    levels: dict[str, Tensor]
    text: dict[str, Tensor]
    # [rows]
    weights: Tensor
    # The rejected one of a pair.
    rejected: Tensor | None = None
    # 1 or 0, [rows].
    accepted: Tensor | None = None
    # Other captions, for the estimate of the divergence in kto.
    mismatched: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Feeds:
        """On a device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        def optional(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else move(tensor)

        def every(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: move(tensor) for name, tensor in tensors.items()}

        return Feeds(
            x0=move(self.x0),
            noise=move(self.noise),
            signal=move(self.signal),
            noise_level=move(self.noise_level),
            levels=every(self.levels),
            text=every(self.text),
            weights=move(self.weights),
            rejected=optional(self.rejected),
            accepted=optional(self.accepted),
            mismatched=every(self.mismatched),
        )


@dataclass(frozen=True)
class Draw:
    """What is drawn for a step: times and dropped captions of the whole batch, noise of some rows."""

    times: list[float]
    dropped: list[bool]
    # [rows, size]
    noise: NDArray[np.float32]


def draw_step(seed: str, step: int, timesteps: Timesteps, caption_dropout: float, batch: int, size: int, rows: range) -> Draw:
    """
    The draws of a step, counted from 0.

    `size` is the number of values of one clip; `rows` are those of the batch whose noise is wanted.
    """
    random = random_stream(seed, "step", step)
    times, dropped = [], []
    for _ in range(batch):
        times.append(draw_time(timesteps, random))
        # Drawn for every row, so that the share dropped does not shift later draws.
        dropped.append(random.uniform() < caption_dropout)
    return Draw(times, dropped, random.gaussian_rows(batch, size, rows))


def draw_time(timesteps: Timesteps, random: RandomStream) -> float:
    """A diffusion time in (0, 1): 0 is the clip, 1 is noise."""
    if timesteps.kind == "uniform":
        time = random.uniform()
    elif timesteps.kind == "window":
        time = timesteps.low + (timesteps.high - timesteps.low) * random.uniform()
    else:
        time = 1 / (1 + math.exp(-(timesteps.mean + timesteps.std * random.gaussian())))
    # Times at the very ends make a division by zero in the epsilon and v parameterisations.
    return min(max(time, 1e-4), 1 - 1e-4)
