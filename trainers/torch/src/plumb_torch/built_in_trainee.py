"""Training the built-in model on pixels (services/trainer/domain/built-in-trainee.ts)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .built_in_model import BuiltInModel, ModelFile, fresh_adapters
from .data_set import ArtifactFolder, DataSet
from .errors import invalid
from .feeds import Feeds, draw_step
from .job import Job
from .tensor_file import Array
from .trainee import DrawnItem, Output, Trainee, stack
from .training_set import TrainingSet

# Letters and digits of any alphabet: \w without the underscore.
_WORD = re.compile(r"[^\W_]+")
# Clips that are kept decoded, as bytes.
_KEPT_CLIPS = 4096


class BuiltInTrainee(Trainee):
    """The video DiT with the clips of a data set."""

    def __init__(
        self, job: Job, data_set: DataSet, training_set: TrainingSet, artifacts: ArtifactFolder, device: torch.device
    ) -> None:
        """
        Raises JobError for weights, clips or adapters that do not fit, and (PROMPT_UNKNOWN_WORD) for captions that the model
        does not know.
        """
        self._job = job
        self._artifacts = artifacts
        self._pixels = lru_cache(maxsize=_KEPT_CLIPS)(self._read_pixels)
        self._file = ModelFile(job.base)
        self._samples = {sample.sample_id: sample for sample in data_set.samples}
        used = training_set.used_sample_ids()
        artifacts.check({f"the clip of sample {one}": self._samples[one].clip for one in used})
        captions = {sample.prompt_id: sample.prompt for sample in data_set.samples}
        self._tokens = {prompt: self._tokenise(captions[prompt]) for prompt in {item.prompt_id for item in training_set.items}}
        config = self._file.config
        self._config = config
        self._clip_shape = (3, *(config["video"][side] for side in ("frames", "height", "width")))
        self.parameter_count = sum(array.size for array in self._file.tensors.values())
        rematerialise = job.optimisation.rematerialise == "blocks"
        start = {} if job.adapters is None else fresh_adapters(config, job.adapters, str(job.seed))
        self.policy = BuiltInModel(
            self._file,
            adapters=job.adapters,
            values=start,
            trained=True,
            rematerialise=rematerialise,
            device=device,
        )
        same = job.reference == job.base
        other = self._file if same else ModelFile(job.reference)
        if {name: array.shape for name, array in other.tensors.items()} != {
            name: array.shape for name, array in self._file.tensors.items()
        }:
            raise invalid(
                "job.reference",
                f"{job.reference.version} has other weights than {job.base.version}; use a reference of the same architecture",
            )
        self.reference = (
            None
            if same and job.adapters is not None
            else BuiltInModel(other, adapters=None, values={}, trained=False, rematerialise=False, device=device)
        )

    def _tokenise(self, caption: str) -> list[int]:
        described = self._file.config["caption"]
        vocabulary: list[str] = described["vocabulary"]
        words = _WORD.findall(caption.lower())
        if len(words) > described["maxWords"]:
            raise invalid("prompt.text", f'"{caption}" has {len(words)} words; the model takes at most {described["maxWords"]}')
        for word in words:
            if word not in vocabulary:
                raise invalid(
                    "prompt.text",
                    f'"{caption}" has the word "{word}", which the model does not know; its words are: {" ".join(vocabulary)}',
                    "PROMPT_UNKNOWN_WORD",
                )
        tokens = [vocabulary.index(word) + 1 for word in words]
        return tokens + [0] * (described["maxWords"] - len(tokens))

    def _read_pixels(self, sample_id: str) -> np.ndarray:
        pixels = self._artifacts.read_clip(self._samples[sample_id])
        expected = self._clip_shape[1:]
        if pixels.shape[:3] != expected:
            raise invalid(
                "video",
                f"of sample {sample_id} is {list(pixels.shape[:3])} frames, height, width; the model takes {list(expected)}",
                "CLIP_MISMATCH",
            )
        return pixels

    def _clip(self, sample_id: str) -> np.ndarray:
        """Model values, [3, frames, height, width]."""
        described = self._config["pixels"]
        values: np.ndarray = (self._pixels(sample_id).astype(np.float64) / 255 - described["mean"]) * described["scale"]
        return values.transpose(3, 0, 1, 2).astype(np.float32)

    def feeds(self, batch: Sequence[DrawnItem], rows: range, *, seed: str, step: int, caption_dropout: float) -> Feeds:
        size = math.prod(self._clip_shape)
        timesteps = self._job.optimisation.timesteps
        draw = draw_step(seed, step, timesteps, caption_dropout, len(batch), size, rows)
        mine = [batch[row] for row in rows]
        parameterisation, sigma = self._config["parameterisation"], self._config["sigmaData"]
        levels = [noise_factors(parameterisation, draw.times[row], sigma) for row in rows]

        def column(name: str) -> Tensor:
            return torch.tensor([level[name] for level in levels], dtype=torch.float32)

        empty = [0] * self._config["caption"]["maxWords"]
        tokens = [empty if draw.dropped[row] else self._tokens[batch[row].item.prompt_id] for row in rows]
        feeds = Feeds(
            x0=torch.from_numpy(stack([self._clip(one.item.sample_id) for one in mine])),
            noise=torch.from_numpy(draw.noise.reshape(len(rows), *self._clip_shape)),
            signal=column("signal"),
            noise_level=column("noise"),
            levels={
                "time": torch.tensor([draw.times[row] for row in rows], dtype=torch.float32),
                **{name: column(name).reshape(-1, 1, 1, 1, 1) for name in ("skip", "in", "out")},
            },
            text={"tokens": torch.tensor(tokens)},
            weights=torch.tensor([one.weight for one in mine], dtype=torch.float32),
        )
        if mine[0].item.rejected_id is not None:
            feeds.rejected = torch.from_numpy(stack([self._clip(one.item.rejected_id or "") for one in mine]))
        if mine[0].item.accepted is not None:
            feeds.accepted = torch.tensor([float(bool(one.item.accepted)) for one in mine])
        if mine[0].mismatched is not None:
            feeds.mismatched = {"tokens": torch.tensor([self._tokens[one.mismatched or ""] for one in mine])}
        return feeds

    def encode(self, values: Mapping[str, Array]) -> Output:
        adapters = self._job.adapters
        if adapters is None:
            return Output(self._file.encode(values), None)
        return Output(self._file.encode(self._file.merge(adapters, values)), self._file.encode_adapters(adapters, values))


def noise_factors(parameterisation: str, time: float, sigma: float) -> dict[str, float]:
    """Signal, noise and preconditioning at a time, in float64 (packages/diffusion/src/parameterisation.ts)."""
    if parameterisation == "flow":
        signal, noise = 1 - time, time
        to_noise, to_clip = 1.0, -1.0
    else:
        signal, noise = math.cos(math.pi / 2 * time), math.sin(math.pi / 2 * time)
        to_noise, to_clip = (1.0, 0.0) if parameterisation == "epsilon" else (signal, -noise)
    variance = signal**2 * sigma**2 + noise**2
    covariance = to_noise * noise + to_clip * signal * sigma**2
    target_variance = to_noise**2 + to_clip**2 * sigma**2
    return {
        "signal": signal,
        "noise": noise,
        "skip": covariance / variance,
        "in": 1 / math.sqrt(variance),
        # Never negative in exact arithmetic; rounding may make it so at the ends.
        "out": math.sqrt(max(target_variance - covariance**2 / variance, 1e-12)),
    }
