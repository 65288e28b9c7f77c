"""Which items every step sees (packages/objective/src/batches.ts): `batch(k)` follows from the seed and k alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import unusable
from .random_stream import keyed_stream, shuffled
from .training_set import Item, balance_groups, group_by, grouped_probabilities


@dataclass(frozen=True)
class Batch:
    """The items of one step: positions in the list, and the weight of each draw in the loss, [batch] both."""

    indices: list[int]
    loss_weights: NDArray[np.float32]


class BatchPlan:
    """An epoch is one systematic resampling of the items, dealt to its steps in turn."""

    def __init__(self, items: Sequence[Item], *, seed: int, batch_size: int, balance: str, weighting: str) -> None:
        self._seed = seed
        self._batch_size = batch_size
        self._groups = balance_groups(items, balance)
        self._target = grouped_probabilities([item.weight for item in items], self._groups, balance)
        self._drawn = (
            self._target if weighting == "resample" else grouped_probabilities([1.0] * len(items), self._groups, balance)
        )
        self.steps_per_epoch = math.ceil(len(items) / batch_size)
        self._newest: tuple[int, list[int]] | None = None

    def batch(self, step: int) -> Batch:
        """Of a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._newest is None or self._newest[0] != epoch:
            self._newest = (epoch, self._draw_epoch(epoch))
        start = place * self._batch_size
        indices = self._newest[1][start : start + self._batch_size]
        weights = [self._target[index] / self._drawn[index] for index in indices]
        return Batch(indices, np.array(weights, dtype=np.float32))

    def _draw_epoch(self, epoch: int) -> list[int]:
        random = keyed_stream(self._seed, "epoch", epoch)
        order = [index for group in shuffled(self._groups, random) for index in shuffled(group, random)]
        offset = random.uniform()
        steps = shuffled(range(self.steps_per_epoch), random)
        draws = self.steps_per_epoch * self._batch_size
        result = [0] * draws
        position = 0
        passed = self._drawn[order[0]]
        for draw in range(draws):
            point = (draw + offset) / draws
            while passed <= point and position < len(order) - 1:
                position += 1
                passed += self._drawn[order[position]]
            step = steps[draw % self.steps_per_epoch]
            result[step * self._batch_size + draw // self.steps_per_epoch] = order[position]
        return result


def mismatch_prompts(prompt_ids: Sequence[str]) -> list[int]:
    """
    Other prompts for KTO's mismatched estimate: place i of the batch takes the prompt of place `result[i]`, never its own.

    Raises JobError FAILED_PRECONDITION if one prompt fills more than half of the batch.
    """
    groups = list(group_by(range(len(prompt_ids)), lambda place: prompt_ids[place]).values())
    largest = max(len(group) for group in groups)
    if 2 * largest > len(prompt_ids):
        raise unusable(
            "batch",
            f"one prompt fills {largest} of {len(prompt_ids)} places, so its samples cannot all be given another prompt; "
            "use a larger batch, balance: prompt, or klEstimate: batch",
        )
    # In an order sorted by prompt, moving on by the size of the largest group always leaves the own group.
    ordered = [place for group in groups for place in group]
    result = [0] * len(prompt_ids)
    for place, index in enumerate(ordered):
        result[index] = ordered[(place + largest) % len(ordered)]
    return result
