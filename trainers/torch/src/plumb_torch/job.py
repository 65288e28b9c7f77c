"""What a job is: the file that `--job` names. docs/distributed-training.md lists its fields."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data_set import ArtifactFolder, read_verified
from .errors import JobError, invalid, misconfigured
from .settings import (
    BUILT_IN_TARGETS,
    DENOISER_TARGETS,
    Adapters,
    Fields,
    Objective,
    Optimisation,
    parse_adapters,
    parse_objective,
    parse_optimisation,
)

_DIGITS = re.compile(r"\d{1,20}")
# Steps between measurements of the anchor distance, where no objective measures it in every step.
_ANCHOR_EVERY_STEPS = 10


@dataclass(frozen=True)
class Source:
    """Bytes of the outside: a path, a hash, or both, which are then compared."""

    path: Path
    sha256: str | None

    def read(self, what: str) -> bytes:
        """Raises JobError NOT_FOUND or DATA_LOSS."""
        return read_verified(self.path, self.sha256, what)


@dataclass(frozen=True)
class Model:
    """Weights: of the built-in model a file of Plumb's, of others a folder in the layout of diffusers."""

    version: str
    source: Source

    @property
    def is_folder(self) -> bool:
        return self.source.path.is_dir()


@dataclass(frozen=True)
class Job:
    """A job with every default written out."""

    job_id: str
    data_set: Source
    base: Model
    reference: Model
    # Adapters that training begins with, of a diffusers model; None begins with fresh ones.
    start_adapters: Source | None
    # Of a diffusers model: tokens that captions are padded to (None is the pipeline's own number), and further arguments of the
    # transformer, the same for all clips.
    max_text_tokens: int | None
    denoiser_inputs: dict[str, Any]
    reward: str
    objective: Objective
    optimisation: Optimisation
    # None trains all weights.
    adapters: Adapters | None
    checkpoint_every_steps: int
    # None where the objective measures the distance in every step.
    anchor_every_steps: int | None
    max_anchor_distance: float | None
    seed: int

    @property
    def numeric_seed(self) -> int:
        """Of the data step and of batches, whose seeds are JavaScript numbers: the low 53 bits."""
        return self.seed & ((1 << 53) - 1)


def read_job(path: Path, artifacts: Path | None) -> Job:
    """
    Reads a job file. Paths in it are relative to its folder.

    Raises JobError naming the field.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise misconfigured("--job", f"{path} is not there") from error
    except ValueError as error:
        raise misconfigured("--job", f"{path} is not JSON: {error}") from error
    fields = Fields(value, "job")
    if fields.get("kind", None) != "plumb.torch-job" or fields.get("version", None) != 1:
        raise invalid("job.kind", f"{path} is no job of this trainer: it needs kind plumb.torch-job and version 1")
    data_set = _source(fields.required("dataSet"), "job.dataSet", path.parent, artifacts)
    base = _model(fields.required("base"), "job.base", path.parent, artifacts)
    reference = fields.get("reference", None)
    start = fields.get("startAdapters", None)
    adapters = fields.get("adapters", None)
    if base.is_folder and adapters is None:
        raise invalid(
            "job.adapters",
            f"is missing; {base.version} is a model of diffusers, which is trained with adapters: give a rank, for example 32",
            "MISSING_FIELD",
        )
    objective = parse_objective(fields.required("objective"))
    job = Job(
        job_id=fields.text("jobId"),
        data_set=data_set,
        base=base,
        reference=base if reference is None else _model(reference, "job.reference", path.parent, artifacts),
        start_adapters=None if start is None else _source(start, "job.startAdapters", path.parent, artifacts),
        max_text_tokens=fields.count("maxTextTokens", 0, low=0) or None,
        denoiser_inputs=dict(fields.get("denoiserInputs", {})),
        reward=fields.text("reward"),
        objective=objective,
        optimisation=parse_optimisation(fields.required("optimisation")),
        adapters=None
        if adapters is None
        else parse_adapters(adapters, DENOISER_TARGETS if base.is_folder else BUILT_IN_TARGETS),
        checkpoint_every_steps=fields.count("checkpointEverySteps", 50),
        anchor_every_steps=_anchor_every_steps(fields, objective),
        max_anchor_distance=fields.number("maxAnchorDistance", 0, low=0) or None,
        seed=_seed(fields.get("seed", "0")),
    )
    fields.done()
    if base.is_folder and job.reference != base:
        raise invalid(
            "job.reference",
            f"is {job.reference.version}; of a model of diffusers the reference is the base without adapters: leave it out",
        )
    if not base.is_folder and job.start_adapters is not None:
        raise invalid("job.startAdapters", "is for models of diffusers; merge adapters into a built-in base")
    return job


def _anchor_every_steps(fields: Fields, objective: Objective) -> int | None:
    if not objective.runs_reference:
        return fields.count("anchorEverySteps", _ANCHOR_EVERY_STEPS)
    if fields.get("anchorEverySteps", None) is not None:
        raise invalid(
            "job.anchorEverySteps",
            f"is set, but {objective.algorithm} runs the reference and measures the distance in every step; leave it out",
        )
    return None


def _seed(value: object) -> int:
    # JSON numbers do not hold an uint64, so that texts are taken as well.
    if isinstance(value, bool) or not isinstance(value, int | str) or not _DIGITS.fullmatch(str(value)):
        raise invalid("job.seed", f"is {value!r}; it must be a whole number of at most 20 digits")
    return int(value)


def _source(value: object, field: str, folder: Path, artifacts: Path | None) -> Source:
    fields = Fields(value, field)
    path, sha256 = fields.get("path", None), fields.get("sha256", None)
    fields.get("version", None)
    fields.done()
    if path is not None:
        return Source(folder / str(path), sha256)
    if sha256 is None:
        raise invalid(field, "has neither path nor sha256; give one of them", "MISSING_FIELD")
    if artifacts is None:
        raise misconfigured("--artifacts", f"is missing; {field} is named by its hash alone")
    return Source(ArtifactFolder(artifacts).path(str(sha256)), str(sha256))


def _model(value: object, field: str, folder: Path, artifacts: Path | None) -> Model:
    source = _source(value, field, folder, artifacts)
    if not source.path.exists():
        raise JobError("NOT_FOUND", "MODEL_NOT_FOUND", f"{field}: {source.path} is not there")
    return Model(Fields(value, field).text("version"), source)
