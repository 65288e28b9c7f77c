"""The data step (packages/objective): from labelled samples, in any order, to what training draws from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from .canonical_json import canonical_json, code_units
from .errors import JobError, invalid, unusable
from .random_stream import RandomStream, keyed_stream, shuffled
from .settings import FORWARD, Objective, Shaping

T = TypeVar("T")


@dataclass(frozen=True)
class LabelledSample:
    """A clip with what scoring it gave: a value, or an error as `<reason>: <message>`."""

    sample_id: str
    prompt_id: str
    category: str
    reward: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class ShapedSample:
    sample_id: str
    prompt_id: str
    category: str
    raw_reward: float
    reward: float
    accepted: bool


@dataclass(frozen=True)
class Item:
    """
    What one draw trains on: a weighted sample, a pair (`rejected_id` is set) or a labelled sample (`accepted` is set).
    `weight` is above 0, in proportion to the item's share of its balance group.
    """

    kind: Literal["weighted-sample", "pair", "labelled-sample"]
    sample_id: str
    prompt_id: str
    category: str
    weight: float
    reward: float
    rejected_id: str | None = None
    rejected_reward: float = 0.0
    accepted: bool | None = None

    def as_json(self) -> dict[str, Any]:
        origin = {"kind": self.kind, "promptId": self.prompt_id, "category": self.category, "weight": self.weight}
        if self.kind == "pair":
            return origin | {
                "chosenId": self.sample_id,
                "rejectedId": self.rejected_id,
                "chosenReward": self.reward,
                "rejectedReward": self.rejected_reward,
            }
        own = {"sampleId": self.sample_id, "reward": self.reward}
        return origin | (own if self.accepted is None else own | {"accepted": self.accepted})

    def sample_ids(self) -> tuple[str, ...]:
        return (self.sample_id,) if self.rejected_id is None else (self.sample_id, self.rejected_id)


@dataclass(frozen=True)
class Exclusion:
    """Why a sample is in no item: unscored, no-weight, no-contrast or not-paired."""

    sample_id: str
    reason: str
    detail: str

    def as_json(self) -> dict[str, str]:
        return {"sampleId": self.sample_id, "reason": self.reason, "detail": self.detail}


@dataclass(frozen=True)
class TrainingSet:
    """What a job trains on."""

    settings: Objective
    seed: int
    items: tuple[Item, ...]
    exclusions: tuple[Exclusion, ...]
    statistics: dict[str, Any]

    def used_sample_ids(self) -> list[str]:
        """Each once, in order."""
        return list(dict.fromkeys(one for item in self.items for one in item.sample_ids()))

    def weight_spread(self) -> float | None:
        """Standard deviation of the weights; None where items have none."""
        weights = [item.weight for item in self.items if item.kind == "weighted-sample"]
        if not weights:
            return None
        mean = plain_sum(weights) / len(weights)
        return math.sqrt(plain_sum((weight - mean) ** 2 for weight in weights) / len(weights))

    def hash(self) -> str:
        """
        SHA-256 of the content: what the engine's data step gives, as far as exp and log round alike
        (docs/distributed-training.md).
        """
        content: dict[str, Any] = {
            "settings": self.settings.as_json(),
            "seed": self.seed,
            "items": [item.as_json() for item in self.items],
            "exclusions": [one.as_json() for one in self.exclusions],
            "statistics": self.statistics,
        }
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()


@dataclass
class _Selection:
    items: list[Item] = field(default_factory=list)
    exclusions: list[Exclusion] = field(default_factory=list)
    uninformative: list[str] = field(default_factory=list)
    cap: dict[str, Any] | None = None


def plain_sum(values: Iterable[float]) -> float:
    """From left to right, rounding each time: Python's own sum compensates, and the engine's does not."""
    total = 0.0
    for value in values:
        total += value
    return total


def _compensated_sum(values: Sequence[float]) -> float:
    """Neumaier's, as the engine's statistics use it."""
    total, correction = values[0], 0.0
    for value in values[1:]:
        following = total + value
        if abs(total) >= abs(value):
            correction += total - following + value
        else:
            correction += value - following + total
        total = following
    return total + correction


def _mean(values: Sequence[float]) -> float:
    return _compensated_sum(values) / len(values)


def _squared_deviations(values: Sequence[float]) -> float:
    centre = _mean(values)
    return plain_sum((value - centre) * (value - centre) for value in values)


def group_by(values: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """In order of first appearance."""
    groups: dict[str, list[T]] = {}
    for value in values:
        groups.setdefault(key(value), []).append(value)
    return groups


def freeze_training_set(samples: Sequence[LabelledSample], settings: Objective, seed: int) -> TrainingSet:
    """
    Raises JobError INVALID_ARGUMENT for a reward that is not finite, a sample given twice or a prompt in two categories;
    FAILED_PRECONDITION (DATASET_UNUSABLE) for no samples, too few scores, or nothing to learn from.
    """
    _check_samples(samples)
    ordered = sorted(samples, key=lambda one: (code_units(one.prompt_id), code_units(one.sample_id)))
    exclusions = [Exclusion(one.sample_id, "unscored", one.error) for one in ordered if one.error is not None]
    unscored = len(exclusions) / len(samples)
    if unscored == 1 or unscored > settings.max_unscored_share:
        raise unusable(
            "samples",
            f"{len(exclusions)} of {len(samples)} have no score (first: {exclusions[0].detail}), above maxUnscoredShare "
            f"{settings.max_unscored_share}; mend the scorer and score them again",
        )
    shaped = _shape(ordered, settings)
    _check_contrast(shaped, settings)
    selection = _select(shaped, settings, seed)
    if not selection.items:
        raise _no_contrast(settings, shaped)
    return TrainingSet(
        settings=settings,
        seed=seed,
        items=tuple(selection.items),
        exclusions=(*exclusions, *selection.exclusions),
        statistics=_describe(ordered, shaped, selection, settings),
    )


def _check_samples(samples: Sequence[LabelledSample]) -> None:
    if not samples:
        raise unusable("samples", "is empty; generate and score samples of the training prompts first")
    seen: set[str] = set()
    categories: dict[str, str] = {}
    for one in samples:
        if one.reward is not None and not math.isfinite(one.reward):
            raise invalid(
                f"samples[{one.sample_id}].reward",
                f"is {one.reward}; must be finite (a failed score is an error, not a number)",
                "NUMERICS_NOT_FINITE",
            )
        if one.sample_id in seen:
            raise invalid(f"samples[{one.sample_id}]", "is given twice; give every sample once")
        seen.add(one.sample_id)
        known = categories.setdefault(one.prompt_id, one.category)
        if known != one.category:
            raise invalid(
                f"samples[{one.sample_id}].category",
                f"is {one.category}, but prompt {one.prompt_id} is in {known} elsewhere; a prompt has one category",
            )


def _shape(ordered: Sequence[LabelledSample], settings: Objective) -> list[ShapedSample]:
    scored = [(one, one.reward) for one in ordered if one.reward is not None]
    rewards = shape_rewards([reward for _, reward in scored], [one.prompt_id for one, _ in scored], settings.shaping)
    return [
        ShapedSample(one.sample_id, one.prompt_id, one.category, raw, reward, reward >= settings.accept_threshold)
        for (one, raw), reward in zip(scored, rewards, strict=True)
    ]


def shape_rewards(rewards: Sequence[float], groups: Sequence[str], settings: Shaping) -> list[float]:
    """Standardised within the prompt if asked for, then eta (r - gamma), then clipped."""
    standardised = list(rewards) if settings.standardise == "none" else _standardise(rewards, groups)
    low, high = settings.clip or (-math.inf, math.inf)
    return [min(high, max(low, settings.eta * (reward - settings.gamma))) for reward in standardised]


def _standardise(rewards: Sequence[float], groups: Sequence[str]) -> list[float]:
    result = [0.0] * len(rewards)
    for indices in group_by(range(len(rewards)), lambda index: groups[index]).values():
        members = [rewards[index] for index in indices]
        centre = _mean(members)
        many = len(members) > 1
        deviation = math.sqrt(_squared_deviations(members) / (len(members) - 1)) if many else 0.0
        # Rounding leaves a spread of a few units in the last place where all members are equal; that is no signal.
        spread = deviation if deviation > 1e-12 * max(abs(one) for one in members) else math.inf
        for index in indices:
            result[index] = (rewards[index] - centre) / spread
    return result


def _contrast(settings: Objective) -> str:
    return {"sft": "not-needed", "filtered-sft": "labels", "rwr": "rewards", "dpo": "pairs", "kto": "labels"}[
        settings.algorithm
    ]


def _uniform(samples: Iterable[ShapedSample], key: Callable[[ShapedSample], object]) -> bool:
    return len({key(one) for one in samples}) < 2


def _accepted(sample: ShapedSample) -> bool:
    return sample.accepted


def _reward(sample: ShapedSample) -> float:
    return sample.reward


def _check_contrast(shaped: Sequence[ShapedSample], settings: Objective) -> None:
    contrast = _contrast(settings)
    if contrast == "labels" and _uniform(shaped, _accepted):
        raise _no_contrast(settings, shaped)
    if contrast == "rewards":
        by_prompt = list(group_by(shaped, lambda one: one.prompt_id).values())
        pools = by_prompt if settings.normalisation == "per-prompt" else [list(shaped)]
        if all(_uniform(pool, _reward) for pool in pools):
            raise _no_contrast(settings, shaped)


def _no_contrast(settings: Objective, shaped: Sequence[ShapedSample]) -> JobError:
    accepted = sum(one.accepted for one in shaped)
    rewards = [one.reward for one in shaped]
    needs = {
        "not-needed": "samples with weight",
        "labels": "both accepted and rejected samples",
        "rewards": "samples whose rewards differ (within a prompt if normalisation is per-prompt) and some weight above 0",
        "pairs": "prompts with a better and a worse sample",
    }[_contrast(settings)]
    return unusable(
        "samples",
        f"hold no contrast: {settings.algorithm} needs {needs}, but {accepted} of {len(shaped)} scored samples are accepted "
        f"(shaped reward >= {settings.accept_threshold}), shaped rewards from {min(rewards)} to {max(rewards)}; draw more "
        "samples per prompt, move acceptThreshold or shaping, or use a reward that tells them apart",
    )


def _select(shaped: Sequence[ShapedSample], settings: Objective, seed: int) -> _Selection:
    if settings.algorithm == "dpo":
        return _pair(shaped, settings, seed)
    if settings.algorithm == "kto":
        return _label(shaped, settings)
    return _weigh(shaped, settings)


def _log_weight(settings: Objective) -> Callable[[float], float]:
    if settings.algorithm == "sft":
        return lambda _: 0.0
    if settings.algorithm == "filtered-sft":
        return lambda reward: 0.0 if reward >= settings.accept_threshold else -math.inf
    if settings.transform == "exp":
        return lambda reward: reward / settings.temperature
    return lambda reward: math.log(reward) if reward > 0 else -math.inf


def _weigh(shaped: Sequence[ShapedSample], settings: Objective) -> _Selection:
    log_weight = _log_weight(settings)
    weights, cap = normalise_weights(
        [log_weight(one.reward) for one in shaped],
        [one.prompt_id for one in shaped],
        settings.normalisation,
        settings.max_weight,
    )
    selection = _Selection(cap=cap)
    for one, weight in zip(shaped, weights, strict=True):
        if weight > 0:
            selection.items.append(Item("weighted-sample", one.sample_id, one.prompt_id, one.category, weight, one.reward))
        else:
            detail = f"shaped reward {canonical_json(one.reward)}"
            selection.exclusions.append(Exclusion(one.sample_id, "no-weight", detail))
    by_label = _contrast(settings) == "labels"
    selection.uninformative = _uninformative(shaped, _accepted if by_label else _reward)
    return selection


def _uninformative(shaped: Sequence[ShapedSample], key: Callable[[ShapedSample], object]) -> list[str]:
    return [prompt for prompt, members in group_by(shaped, lambda one: one.prompt_id).items() if _uniform(members, key)]


def normalise_weights(
    log_weights: Sequence[float], groups: Sequence[str], normalisation: str, max_weight: float
) -> tuple[list[float], dict[str, Any]]:
    """
    Weights of mean 1 over those above 0, the largest capped at `max_weight` with the excess spread over the others, and
    what the cap did. `per-prompt` gives every prompt the mass of its number of samples first.
    """
    weights = [0.0] * len(log_weights)
    key: Callable[[int], str] = (lambda _: "") if normalisation == "global" else (lambda index: groups[index])
    for indices in group_by(range(len(log_weights)), key).values():
        largest = max(log_weights[index] for index in indices)
        if largest == -math.inf:
            continue
        for index in indices:
            weights[index] = math.exp(log_weights[index] - largest)
        total = plain_sum(weights[index] for index in indices)
        for index in indices:
            weights[index] = weights[index] / total * len(indices)
    positive = [weight for weight in weights if weight > 0]
    if not positive:
        return weights, _cap(max_weight, 0, 0.0, 0.0, 0.0)
    mean = _compensated_sum(positive) / len(positive)
    return _cap_weights([weight / mean for weight in weights], max_weight)


def _cap(limit: float, capped: int, largest: float, moved: float, size: float) -> dict[str, Any]:
    return {
        "limit": limit,
        "capped": capped,
        "largestBefore": largest,
        "massMoved": moved,
        "effectiveSampleSizeBefore": size,
    }


def _cap_weights(weights: list[float], limit: float) -> tuple[list[float], dict[str, Any]]:
    descending = sorted((weight for weight in weights if weight > 0), reverse=True)
    count = len(descending)
    size = effective_sample_size(weights)
    largest = descending[0] if descending else 0.0
    # Sums of the tail, added up from the smallest: subtracting from the total would cancel the small weights away.
    tail = [0.0] * (count + 1)
    for index in range(count - 1, -1, -1):
        tail[index] = tail[index + 1] + descending[index]
    capped, scale = 0, 1.0
    while capped < count and descending[capped] * scale > limit * (1 + 1e-12):
        capped += 1
        rest = tail[capped]
        scale = (count - capped * limit) / rest if rest > 0 else 1.0
    if capped == 0:
        return weights, _cap(limit, 0, largest, 0.0, size)
    boundary = descending[capped - 1]
    result = [limit if weight >= boundary else weight * scale for weight in weights]
    moved = plain_sum(max(0.0, before - after) for before, after in zip(weights, result, strict=True))
    return result, _cap(limit, capped, largest, moved / count, size)


def effective_sample_size(weights: Iterable[float]) -> float:
    """Kish's, (sum w)^2 / sum w^2."""
    total, squares = 0.0, 0.0
    for weight in weights:
        total += weight
        squares += weight * weight
    return 0.0 if squares == 0 else total**2 / squares


def _pair(shaped: Sequence[ShapedSample], settings: Objective, seed: int) -> _Selection:
    selection = _Selection()
    for prompt_id, candidates in group_by(shaped, lambda one: one.prompt_id).items():
        pairs = select_pairs(candidates, settings, keyed_stream(seed, "pairs", prompt_id))
        if not pairs:
            selection.uninformative.append(prompt_id)
        used = {one.sample_id for pair in pairs for one in pair}
        for chosen, rejected in pairs:
            selection.items.append(
                Item(
                    "pair",
                    chosen.sample_id,
                    prompt_id,
                    chosen.category,
                    1.0,
                    chosen.reward,
                    rejected_id=rejected.sample_id,
                    rejected_reward=rejected.reward,
                )
            )
        reason = "not-paired" if pairs else "no-contrast"
        for one in candidates:
            if one.sample_id not in used:
                label = "accepted" if one.accepted else "rejected"
                detail = f"{label}, shaped reward {canonical_json(one.reward)}"
                selection.exclusions.append(Exclusion(one.sample_id, reason, detail))
    return selection


def select_pairs(
    candidates: Sequence[ShapedSample], settings: Objective, random: RandomStream
) -> list[tuple[ShapedSample, ShapedSample]]:
    """(chosen, rejected) of one prompt."""
    mixed = shuffled(candidates, random)
    if settings.pairs == "binary":
        return _accepted_against_rejected(mixed, settings)
    if settings.pairs == "best-worst":
        ordered = sorted(mixed, key=_reward, reverse=True)
        best, worst = ordered[0], ordered[-1]
        return [(best, worst)] if _far_enough(best, worst, settings) else []
    possible = [(one, other) for one in mixed for other in mixed if _far_enough(one, other, settings)]
    uses: dict[str, int] = {}
    taken: list[tuple[ShapedSample, ShapedSample]] = []
    for pair in shuffled(possible, random):
        if len(taken) == settings.max_pairs_per_prompt:
            break
        if any(uses.get(one.sample_id, 0) >= settings.max_uses_per_sample for one in pair):
            continue
        for one in pair:
            uses[one.sample_id] = uses.get(one.sample_id, 0) + 1
        taken.append(pair)
    return taken


def _accepted_against_rejected(
    candidates: Sequence[ShapedSample], settings: Objective
) -> list[tuple[ShapedSample, ShapedSample]]:
    """Walks the grid of accepted and rejected along its diagonals, so that every sample is used as evenly as possible."""
    accepted = [one for one in candidates if one.accepted]
    rejected = [one for one in candidates if not one.accepted]
    a, r = len(accepted), len(rejected)
    if a == 0 or r == 0:
        return []
    pairs = min(settings.max_pairs_per_prompt, a * r, settings.max_uses_per_sample * min(a, r))
    diagonal = math.lcm(a, r)
    return [(accepted[k % a], rejected[(k + k // diagonal) % r]) for k in range(pairs)]


def _far_enough(chosen: ShapedSample, rejected: ShapedSample, settings: Objective) -> bool:
    gap = chosen.reward - rejected.reward
    return gap > 0 and gap >= settings.min_margin


def _label(shaped: Sequence[ShapedSample], settings: Objective) -> _Selection:
    def group_of(one: ShapedSample) -> str:
        return {"none": "", "category": one.category, "prompt": one.prompt_id}[settings.balance]

    shares = {
        group: sum(one.accepted for one in members) / len(members) for group, members in group_by(shaped, group_of).items()
    }
    selection = _Selection(uninformative=_uninformative(shaped, _accepted))
    for one in shaped:
        share = shares[group_of(one)]
        # Half the group's mass for each class; a group of one class keeps it all.
        balanced = 1.0 if share in (0, 1) else 0.5 / (share if one.accepted else 1 - share)
        weight = balanced if settings.label_balance == "classes" else 1.0
        selection.items.append(
            Item("labelled-sample", one.sample_id, one.prompt_id, one.category, weight, one.reward, accepted=one.accepted)
        )
    return selection


def grouped_probabilities(masses: Sequence[float], groups: Sequence[Sequence[int]], balance: str) -> list[float]:
    """Probabilities in proportion to mass within a group; the groups equal, or by their total mass for `none`."""
    total = plain_sum(masses)
    result = [0.0] * len(masses)
    for group in groups:
        group_mass = plain_sum(masses[index] for index in group)
        share = group_mass / total if balance == "none" else 1 / len(groups)
        for index in group:
            result[index] = masses[index] / group_mass * share
    return result


def balance_groups(items: Sequence[Item], balance: str) -> list[list[int]]:
    """Positions of the items of every group."""
    key: Callable[[int], str] = (
        (lambda index: items[index].prompt_id) if balance == "prompt" else (lambda index: items[index].category)
    )
    return list(group_by(range(len(items)), key).values())


def _describe(
    samples: Sequence[LabelledSample], shaped: Sequence[ShapedSample], selection: _Selection, settings: Objective
) -> dict[str, Any]:
    def counts(category: str | None) -> dict[str, Any]:
        scored = [one for one in shaped if category is None or one.category == category]
        within = [one for one in samples if category is None or one.category == category]
        accepted = sum(one.accepted for one in scored)
        return {
            "samples": len(within),
            "scored": len(scored),
            "prompts": len({one.prompt_id for one in within}),
            "acceptanceRate": accepted / len(scored) if scored else 0.0,
            "items": sum(category is None or item.category == category for item in selection.items),
        }

    raw = [one.raw_reward for one in shaped]
    items = selection.items
    target = grouped_probabilities([item.weight for item in items], balance_groups(items, settings.balance), settings.balance)
    statistics = {
        **counts(None),
        "perCategory": {name: counts(name) for name in sorted({one.category for one in samples}, key=code_units)},
        "reward": {
            "mean": _mean(raw),
            "standardDeviation": 0.0 if len(raw) == 1 else math.sqrt(_squared_deviations(raw) / len(raw)),
            "lowest": min(raw),
            "highest": max(raw),
        },
        "uninformativePromptRatio": len(selection.uninformative) / len({one.prompt_id for one in shaped}),
        "uninformativePrompts": selection.uninformative,
        "effectiveSampleSize": 1 / plain_sum(probability**2 for probability in target),
    }
    return statistics if settings.algorithm not in FORWARD else statistics | {"cap": selection.cap}
