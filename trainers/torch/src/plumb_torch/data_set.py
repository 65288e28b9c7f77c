"""The manifest of a data set (packages/objective/src/data-set-manifest.ts), and the files that it names."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .errors import JobError, data_loss, invalid, unusable
from .settings import Fields
from .training_set import LabelledSample

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class File:
    """Bytes by hash."""

    sha256: str


@dataclass(frozen=True)
class Clip(File):
    """A film strip: all frames, one below the other, in one PNG of 8-bit RGB."""

    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Sample:
    """A sample of the manifest."""

    sample_id: str
    prompt_id: str
    prompt: str
    category: str
    clip: Clip
    latents: File | None
    scores: Mapping[str, Any]
    accepted_by_people: bool | None


@dataclass(frozen=True)
class DataSet:
    """A frozen data set."""

    sha256: str
    samples: tuple[Sample, ...]
    # Name of the reward that people's verdicts stand in place of.
    human_labels: str | None

    def labelled(self, reward: str) -> list[LabelledSample]:
        """
        The samples with the outcome of one reward. One without that outcome has an error, and the data step excludes it.

        Raises JobError FAILED_PRECONDITION when no sample has an outcome of that reward.
        """
        known = {name for sample in self.samples for name in sample.scores}
        if self.samples and reward not in known:
            raise unusable(
                "reward", f"no sample of the data set has a score of '{reward}'; its rewards are {', '.join(known) or 'none'}"
            )
        return [self._label(sample, reward) for sample in self.samples]

    def _label(self, sample: Sample, reward: str) -> LabelledSample:
        origin = (sample.sample_id, sample.prompt_id, sample.category)
        if self.human_labels == reward and sample.accepted_by_people is not None:
            return LabelledSample(*origin, reward=float(sample.accepted_by_people))
        outcome = sample.scores.get(reward)
        if outcome is None:
            return LabelledSample(*origin, error=f"MISSING_FIELD: it was not scored by {reward}")
        if "error" in outcome:
            return LabelledSample(*origin, error=f"{outcome['error']['reason']}: {outcome['error']['message']}")
        return LabelledSample(*origin, reward=float(outcome["value"]))


def read_data_set(path: Path, sha256: str | None) -> DataSet:
    """
    Reads a manifest; `sha256` is what it must have, if that is known.

    Raises JobError NOT_FOUND, DATA_LOSS (another hash, or no JSON) or INVALID_ARGUMENT naming the field.
    """
    data = read_verified(path, sha256, "the data set manifest")
    try:
        value = json.loads(data)
    except ValueError as error:
        raise data_loss(f"the data set manifest {path} is not JSON; freeze the data set again") from error
    fields = Fields(value, "dataSet")
    if fields.get("kind", None) != "plumb.data-set" or fields.get("version", None) != 1:
        raise invalid("dataSet.kind", f"{path} is no manifest of a data set of version 1", "DATASET_UNUSABLE")
    samples = fields.required("samples")
    labels = fields.get("humanLabels", None)
    return DataSet(
        sha256=hashlib.sha256(data).hexdigest(),
        samples=tuple(_sample(one, f"dataSet.samples[{place}]") for place, one in enumerate(samples)),
        human_labels=None if labels is None else labels["reward"],
    )


def _sample(value: object, path: str) -> Sample:
    fields = Fields(value, path)
    video = Fields(fields.required("video"), f"{path}.video")
    latents = fields.get("latents", None)
    human = fields.get("human", None)
    return Sample(
        sample_id=fields.text("sampleId"),
        prompt_id=fields.text("promptId"),
        prompt=fields.text("prompt"),
        category=fields.text("category"),
        clip=Clip(
            _hash(video, "sha256"), video.count("frameCount", None), video.count("height", None), video.count("width", None)
        ),
        latents=None if latents is None else File(_hash(Fields(latents, f"{path}.latents"), "sha256")),
        scores=fields.required("scores"),
        accepted_by_people=None if human is None else bool(human["accept"]),
    )


def _hash(fields: Fields, name: str) -> str:
    found = fields.text(name)
    if not _SHA256.fullmatch(found):
        raise invalid(f"{fields.path}.{name}", "must be 64 lower-case hexadecimal digits")
    return found


def read_verified(path: Path, sha256: str | None, what: str) -> bytes:
    """
    Raises JobError NOT_FOUND or, for bytes of another hash, DATA_LOSS.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise JobError("NOT_FOUND", "ARTIFACT_NOT_FOUND", f"{what}: {path} is not there") from error
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise data_loss(f"{what}: {path} has hash {found}, and {sha256} was expected; get the file again")
    return data


class ArtifactFolder:
    """A folder of artifacts by hash, laid out as Plumb's folder store: sha256/<first two digits>/<hash>."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: str) -> Path:
        return self._folder / "sha256" / sha256[:2] / sha256

    def check(self, files: Mapping[str, File]) -> None:
        """Raises JobError NOT_FOUND naming the first that is missing, before any training; keys are how errors call them."""
        for what, file in files.items():
            if not self.path(file.sha256).is_file():
                raise JobError("NOT_FOUND", "ARTIFACT_NOT_FOUND", f"{what}: {self.path(file.sha256)} is not there")

    def read(self, sha256: str, what: str) -> bytes:
        """Raises JobError NOT_FOUND or DATA_LOSS."""
        return read_verified(self.path(sha256), sha256, what)

    def read_clip(self, sample: Sample) -> NDArray[np.uint8]:
        """
        [frames, height, width, 3].

        Raises JobError DATA_LOSS where the clip is no intact PNG, INVALID_ARGUMENT where its size is not the manifest's.
        """
        clip, what = sample.clip, f"the clip of sample {sample.sample_id}"
        try:
            image = Image.open(io.BytesIO(self.read(clip.sha256, what)), formats=["PNG"])
            pixels = np.asarray(image)
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise data_loss(f"{what} is no intact PNG: {error}") from error
        if image.mode != "RGB" or pixels.shape != (clip.frames * clip.height, clip.width, 3):
            raise invalid(
                what,
                f"is {image.mode} of {image.width}x{image.height} pixels; {clip.frames} frames of "
                f"{clip.width}x{clip.height} need RGB of {clip.width}x{clip.frames * clip.height}",
                "CLIP_MISMATCH",
            )
        return pixels.reshape(clip.frames, clip.height, clip.width, 3)
