"""
A job's settings: what packages/objective and packages/diffusion call ObjectiveSettings, OptimisationSettings and
AdapterSettings, with the same names, ranges and defaults. docs/method.md and docs/training.md explain them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from .errors import invalid

Algorithm = Literal["sft", "filtered-sft", "rwr", "dpo", "kto"]
Balance = Literal["none", "category", "prompt"]
Weighting = Literal["resample", "multiply"]
Normalisation = Literal["global", "per-prompt"]
PairChoice = Literal["binary", "best-worst", "margin"]
Schedule = Literal["constant", "cosine", "trapezoid"]
Precision = Literal["float32", "bfloat16"]
FORWARD: tuple[Algorithm, ...] = ("sft", "filtered-sft", "rwr")


class Fields:
    """Reads the fields of a JSON object, each once, and refuses those that nobody asked for."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            raise invalid(path, f"is {value!r}; it must be an object")
        self._value = cast("Mapping[str, Any]", value)
        self._read: set[str] = set()
        self.path = path

    def get(self, name: str, default: Any) -> Any:
        self._read.add(name)
        found = self._value.get(name)
        return default if found is None else found

    def required(self, name: str) -> Any:
        found = self.get(name, None)
        if found is None:
            raise invalid(f"{self.path}.{name}", "is missing", "MISSING_FIELD")
        return found

    def text(self, name: str) -> str:
        found = self.required(name)
        if not isinstance(found, str) or found == "":
            raise invalid(f"{self.path}.{name}", f"is {found!r}; it must be a text that is not empty")
        return found

    def choice(self, name: str, choices: object, default: str | None) -> Any:
        found = self.required(name) if default is None else self.get(name, default)
        allowed = get_args(choices)
        if found not in allowed:
            raise invalid(f"{self.path}.{name}", f"is {found!r}; use one of {', '.join(allowed)}")
        return found

    def number(
        self,
        name: str,
        default: float | None,
        *,
        low: float = -math.inf,
        high: float = math.inf,
        above: float = -math.inf,
        below: float = math.inf,
    ) -> float:
        found = self.required(name) if default is None else self.get(name, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise invalid(f"{self.path}.{name}", f"is {found!r}; it must be a finite number")
        if not (low <= found <= high and above < found < below):
            limits = [
                f"{word} {limit:g}"
                for word, limit in (("from", low), ("above", above), ("to", high), ("below", below))
                if math.isfinite(limit)
            ]
            raise invalid(f"{self.path}.{name}", f"is {found}; it must be {' '.join(limits)}")
        return float(found)

    def count(self, name: str, default: int | None, *, low: int = 1) -> int:
        found = self.number(name, default, low=low)
        if found != int(found):
            raise invalid(f"{self.path}.{name}", f"is {found}; it must be a whole number")
        return int(found)

    def done(self) -> None:
        """Raises JobError for a field that was not read."""
        unknown = sorted(set(self._value) - self._read)
        if unknown:
            raise invalid(f"{self.path}.{unknown[0]}", f"is unknown; known are {', '.join(sorted(self._read))}")


@dataclass(frozen=True)
class Shaping:
    """From raw to shaped reward: standardise, eta (r - gamma), clip."""

    standardise: Literal["none", "per-prompt"]
    eta: float
    gamma: float
    clip: tuple[float, float] | None


@dataclass(frozen=True)
class Objective:
    """
    One row of the table of algorithms with its settings. Fields that an algorithm does not have stand at their defaults and
    are read by nothing.
    """

    algorithm: Algorithm
    shaping: Shaping
    accept_threshold: float
    balance: Balance
    max_unscored_share: float
    weighting: Weighting = "resample"
    normalisation: Normalisation = "global"
    max_weight: float = 50.0
    kl_anchor: float = 0.0
    transform: Literal["exp", "shaped"] = "exp"
    temperature: float = 0.2
    beta: float = 500.0
    sft_anchor: float = 0.0
    pairs: PairChoice = "binary"
    max_pairs_per_prompt: int = 64
    max_uses_per_sample: int = 1
    min_margin: float = 0.0
    kl_estimate: Literal["mismatched", "batch"] = "mismatched"
    label_balance: Literal["classes", "none"] = "classes"

    @property
    def runs_reference(self) -> bool:
        """Whether every step needs the reference's predictions."""
        return self.algorithm not in FORWARD or self.kl_anchor > 0

    def as_json(self) -> dict[str, Any]:
        """The settings as Plumb writes them, complete."""
        shaping: dict[str, Any] = {
            "standardise": self.shaping.standardise,
            "eta": self.shaping.eta,
            "gamma": self.shaping.gamma,
        }
        if self.shaping.clip is not None:
            shaping["clip"] = list(self.shaping.clip)
        result: dict[str, Any] = {
            "algorithm": self.algorithm,
            "shaping": shaping,
            "acceptThreshold": self.accept_threshold,
            "balance": self.balance,
            "maxUnscoredShare": self.max_unscored_share,
        }
        if self.algorithm in FORWARD:
            result |= {
                "weighting": self.weighting,
                "normalisation": self.normalisation,
                "maxWeight": self.max_weight,
                "klAnchor": self.kl_anchor,
            }
            if self.algorithm == "rwr":
                result |= {"transform": self.transform, "temperature": self.temperature}
            return result
        result |= {"beta": self.beta, "sftAnchor": self.sft_anchor}
        if self.algorithm == "dpo":
            return result | {
                "pairs": self.pairs,
                "maxPairsPerPrompt": self.max_pairs_per_prompt,
                "maxUsesPerSample": self.max_uses_per_sample,
                "minMargin": self.min_margin,
            }
        return result | {"klEstimate": self.kl_estimate, "labelBalance": self.label_balance}


@dataclass(frozen=True)
class Timesteps:
    """Where training draws diffusion time from."""

    kind: Literal["uniform", "logit-normal", "window"]
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def as_json(self) -> dict[str, Any]:
        if self.kind == "uniform":
            return {"kind": self.kind}
        if self.kind == "window":
            return {"kind": self.kind, "low": self.low, "high": self.high}
        return {"kind": self.kind, "mean": self.mean, "std": self.std}


@dataclass(frozen=True)
class Optimisation:
    """How weights are optimised."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    schedule: Schedule
    clip_norm: float
    ema_decay: float
    caption_dropout: float
    rematerialise: Literal["none", "blocks"]
    precision: Precision
    timesteps: Timesteps

    def as_json(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "batchSize": self.batch_size,
            "learningRate": self.learning_rate,
            "weightDecay": self.weight_decay,
            "warmupSteps": self.warmup_steps,
            "schedule": self.schedule,
            "clipNorm": self.clip_norm,
            "emaDecay": self.ema_decay,
            "captionDropout": self.caption_dropout,
            "rematerialise": self.rematerialise,
            "precision": self.precision,
            "timesteps": self.timesteps.as_json(),
        }

    def learning_rate_at(self, step: int) -> float:
        """Of a step, counted from 0."""
        warm = 1.0 if self.warmup_steps == 0 else min((step + 1) / self.warmup_steps, 1.0)
        rate = self.learning_rate * warm
        if self.schedule == "constant":
            return rate
        if self.schedule == "cosine":
            return rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return rate * min((self.steps - step) / (0.3 * self.steps), 1.0)

    def ema_decay_at(self, step: int) -> float:
        """Of a step, counted from 0: a full decay would remember the random beginning for long."""
        return min(self.ema_decay, (step + 1) / (step + 10))


@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters: W + (alpha / rank) A B."""

    rank: int
    alpha: float
    targets: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {"rank": self.rank, "alpha": self.alpha, "targets": list(self.targets)}


BUILT_IN_TARGETS = (
    "blocks.*.attention.qkv.weight",
    "blocks.*.attention.out.weight",
    "blocks.*.mlp.*.weight",
)
DENOISER_TARGETS = ("*.to_q", "*.to_k", "*.to_v", "*.to_out.0")


def parse_objective(value: object) -> Objective:
    """Raises JobError naming the field."""
    fields = Fields(value, "objective")
    algorithm: Algorithm = fields.choice("algorithm", Algorithm, None)
    common: dict[str, Any] = {
        "shaping": _shaping(fields.get("shaping", {})),
        "accept_threshold": fields.number("acceptThreshold", 0.5),
        "balance": fields.choice("balance", Balance, "category"),
        "max_unscored_share": fields.number("maxUnscoredShare", 0.5, low=0, high=1),
    }
    own: dict[str, Any] = {}
    if algorithm in FORWARD:
        own = {
            "weighting": fields.choice("weighting", Weighting, "resample"),
            "normalisation": fields.choice("normalisation", Normalisation, "global"),
            "max_weight": fields.number("maxWeight", 50, above=1),
            "kl_anchor": fields.number("klAnchor", 0, low=0),
        }
        if algorithm == "rwr":
            own["transform"] = fields.choice("transform", Literal["exp", "shaped"], "exp")
            own["temperature"] = fields.number("temperature", 0.2, above=0)
    else:
        own = {
            "beta": fields.number("beta", 500, above=0),
            "sft_anchor": fields.number("sftAnchor", 0, low=0),
        }
    if algorithm == "dpo":
        own |= {
            "pairs": fields.choice("pairs", PairChoice, "binary"),
            "max_pairs_per_prompt": fields.count("maxPairsPerPrompt", 64),
            "max_uses_per_sample": fields.count("maxUsesPerSample", 1),
            "min_margin": fields.number("minMargin", 0, low=0),
        }
    if algorithm == "kto":
        own["kl_estimate"] = fields.choice("klEstimate", Literal["mismatched", "batch"], "mismatched")
        own["label_balance"] = fields.choice("labelBalance", Literal["classes", "none"], "classes")
    fields.done()
    objective = Objective(algorithm=algorithm, **common, **own)
    _check_clip(objective)
    return objective


def _check_clip(objective: Objective) -> None:
    clip = objective.shaping.clip
    highest = math.inf if clip is None else clip[1]
    if objective.algorithm == "rwr" and objective.transform == "shaped" and highest <= 0:
        raise invalid(
            "objective.shaping.clip",
            f"ends at {highest}, so every weight max(0, r) would be 0; raise it above 0",
        )
    if objective.algorithm != "sft" and objective.accept_threshold > highest:
        raise invalid(
            "objective.acceptThreshold",
            f"is {objective.accept_threshold}, above the highest shaped reward {highest} of shaping.clip; "
            "no sample could be accepted",
        )
    if objective.algorithm == "dpo" and objective.pairs == "binary" and objective.min_margin > 0:
        raise invalid(
            "objective.minMargin", "does not apply to binary pairs; set pairs to best-worst or margin, or leave it out"
        )


def _shaping(value: object) -> Shaping:
    fields = Fields(value, "objective.shaping")
    clip = fields.get("clip", None)
    if clip is not None:
        good = isinstance(clip, list) and len(clip) == 2 and all(isinstance(end, int | float) for end in clip)
        if not good or not clip[0] < clip[1]:
            raise invalid("objective.shaping.clip", f"is {clip!r}; it must be [lowest, highest] with lowest < highest")
        clip = (float(clip[0]), float(clip[1]))
    shaping = Shaping(
        standardise=fields.choice("standardise", Literal["none", "per-prompt"], "none"),
        eta=fields.number("eta", 1),
        gamma=fields.number("gamma", 0),
        clip=clip,
    )
    fields.done()
    if shaping.eta == 0:
        raise invalid("objective.shaping.eta", "must not be 0, which would make every reward equal")
    return shaping


def parse_optimisation(value: object) -> Optimisation:
    """Raises JobError naming the field."""
    fields = Fields(value, "optimisation")
    precision = fields.get("precision", "float32")
    if precision == "float16":
        raise invalid(
            "optimisation.precision",
            "is float16, which this trainer does not scale losses for; use bfloat16 or float32",
        )
    optimisation = Optimisation(
        steps=fields.count("steps", None),
        batch_size=fields.count("batchSize", None),
        learning_rate=fields.number("learningRate", None, above=0, high=1),
        weight_decay=fields.number("weightDecay", 0, low=0, high=1),
        warmup_steps=fields.count("warmupSteps", 0, low=0),
        schedule=fields.choice("schedule", Schedule, "trapezoid"),
        clip_norm=fields.number("clipNorm", 1, above=0),
        ema_decay=fields.number("emaDecay", 0, low=0, below=1),
        caption_dropout=fields.number("captionDropout", 0.1, low=0, high=1),
        rematerialise=fields.choice("rematerialise", Literal["none", "blocks"], "none"),
        precision=fields.choice("precision", Precision, "float32"),
        timesteps=_timesteps(fields.get("timesteps", {"kind": "logit-normal", "mean": 1.3, "std": 1.3})),
    )
    fields.done()
    if optimisation.warmup_steps >= optimisation.steps:
        raise invalid("optimisation.warmupSteps", f"is {optimisation.warmup_steps}; it must be below steps")
    return optimisation


def _timesteps(value: object) -> Timesteps:
    fields = Fields(value, "optimisation.timesteps")
    kind = fields.choice("kind", Literal["uniform", "logit-normal", "window"], None)
    timesteps = Timesteps(kind)
    if kind == "logit-normal":
        timesteps = Timesteps(kind, mean=fields.number("mean", None), std=fields.number("std", None, above=0))
    elif kind == "window":
        timesteps = Timesteps(
            kind, low=fields.number("low", None, low=0, high=1), high=fields.number("high", None, low=0, high=1)
        )
        if timesteps.low >= timesteps.high:
            raise invalid("optimisation.timesteps.low", f"is {timesteps.low}; it must be below high")
    fields.done()
    return timesteps


def parse_adapters(value: object, default_targets: tuple[str, ...]) -> Adapters:
    """Raises JobError naming the field."""
    fields = Fields(value, "adapters")
    rank = fields.count("rank", None)
    targets = fields.get("targets", list(default_targets))
    if not isinstance(targets, list) or not targets or not all(isinstance(one, str) and one for one in targets):
        raise invalid("adapters.targets", f"is {targets!r}; it must be a list of names, in which * stands for anything")
    adapters = Adapters(rank=rank, alpha=fields.number("alpha", rank, above=0), targets=tuple(targets))
    fields.done()
    return adapters
