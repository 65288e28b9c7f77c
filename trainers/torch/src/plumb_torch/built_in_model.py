"""The built-in video DiT as a model that is trained: all of its weights, or low-rank adapters on some of its matrices."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import video_dit
from .denoiser import Denoiser, TrainedParameter, matches
from .errors import data_loss, invalid
from .job import Model
from .random_stream import random_stream
from .settings import Adapters
from .tensor_file import Array, encode_tensors, read_tensors, sha256_of
from .video_dit import Shape

_CONFIG = "plumb.config"
_ADAPTERS = "plumb.adapters"
# Gradients of the tables of relative positions are sums over few pairs of tokens, and small.
_RELATIVE_RATE = 15.0


class ModelFile:
    """Weights of the built-in model with their config, as a file has them."""

    def __init__(self, model: Model) -> None:
        """Raises JobError DATA_LOSS naming what is wrong with the file."""
        what = f"the weights of {model.version}"
        self.sha256 = sha256_of(model.source.read(what))
        self.tensors, metadata = read_tensors(model.source.path, what)
        text = metadata.get(_CONFIG)
        if text is None:
            raise data_loss(f"{what}: {model.source.path} is not a Plumb video model: its metadata has no {_CONFIG}")
        self.config_text = text
        try:
            self.config: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise data_loss(f"{what}: {_CONFIG} is not JSON: {error}") from error
        for name, shape in Shape(self.config).parameters().items():
            found = self.tensors.get(name)
            if found is None or found.shape != shape:
                has = "is missing" if found is None else f"is {list(found.shape)}"
                raise data_loss(f"{what}: {name} {has}; its config needs {list(shape)}")

    def encode(self, tensors: Mapping[str, Array]) -> bytes:
        """A model file of other weights of the same config."""
        return encode_tensors(tensors, {_CONFIG: self.config_text})

    def merge(self, adapters: Adapters, values: Mapping[str, Array]) -> dict[str, Array]:
        """The weights that base and adapters make together: W + (alpha / rank) A B, summed in float64."""
        merged = dict(self.tensors)
        for name in adapted_matrices(self.config, adapters):
            left, right = (values[f"{name}.{side}"].astype(np.float64) for side in ("lora_a", "lora_b"))
            change = adapters.alpha / adapters.rank * (left @ right)
            merged[name] = (self.tensors[name].astype(np.float64) + change).astype(np.float32)
        return merged

    def encode_adapters(self, adapters: Adapters, values: Mapping[str, Array]) -> bytes:
        """A file of adapters, bound to this base."""
        described = {
            "format": 1,
            "rank": adapters.rank,
            "alpha": int(adapters.alpha) if adapters.alpha == int(adapters.alpha) else adapters.alpha,
            "targets": list(adapters.targets),
            "base": self.sha256,
        }
        return encode_tensors(values, {_ADAPTERS: json.dumps(described, ensure_ascii=False, separators=(",", ":"))})


def adapted_matrices(config: Mapping[str, Any], adapters: Adapters) -> dict[str, tuple[int, ...]]:
    """
    Shapes of the matrices that adapters go on.

    Raises JobError naming a pattern that matches no matrix, or a rank above what a matrix can have.
    """
    matrices = {name: shape for name, shape in Shape(config).parameters().items() if len(shape) == 2}
    for place, pattern in enumerate(adapters.targets):
        if not any(matches(pattern, name) for name in matrices):
            raise invalid(
                f"adapters.targets[{place}]",
                f'"{pattern}" matches no matrix; matrices are called, for example, {", ".join(list(matrices)[-4:])}',
            )
    picked: dict[str, tuple[int, ...]] = {
        name: shape for name, shape in matrices.items() if any(matches(pattern, name) for pattern in adapters.targets)
    }
    for name, shape in picked.items():
        if adapters.rank > min(shape):
            raise invalid(
                "adapters.rank",
                f"is {adapters.rank}, but {name} {list(shape)} has rank {min(shape)} at most; lower it, or leave this "
                "matrix out of adapters.targets",
            )
    return picked


def fresh_adapters(config: Mapping[str, Any], adapters: Adapters, seed: str) -> dict[str, Array]:
    """Adapters that change nothing yet: A of variance 1 / inputs from the seed, B of 0."""
    values: dict[str, Array] = {}
    for name, (inputs, outputs) in adapted_matrices(config, adapters).items():
        random = random_stream(seed, "adapters", f"{name}.lora_a")
        drawn = random.gaussians(inputs * adapters.rank).astype(np.float64) * (1 / math.sqrt(inputs))
        values[f"{name}.lora_a"] = drawn.astype(np.float32).reshape(inputs, adapters.rank)
        values[f"{name}.lora_b"] = np.zeros((adapters.rank, outputs), np.float32)
    return values


class _Part(nn.Module):
    """A part of the model with its weights, which PyTorch does not allow dots in the names of."""

    def __init__(self, prefix: str, shape: Shape, tensors: Mapping[str, Array], adapters: Mapping[str, Array]) -> None:
        super().__init__()
        self.prefix = prefix
        self.shape = shape
        self.adapted = True
        self.scale = 1.0
        for name, array in (dict(tensors) | dict(adapters)).items():
            own = name.removeprefix(prefix).replace(".", "/")
            self.register_parameter(own, nn.Parameter(torch.from_numpy(array.copy())))

    def named(self) -> dict[str, nn.Parameter]:
        """Parameters by the names of files."""
        return {self.prefix + name.replace("/", "."): value for name, value in self._parameters.items() if value is not None}

    def weights(self) -> dict[str, Tensor]:
        """Weights by name within the part, adapters applied."""
        own: dict[str, Tensor] = {
            name.replace("/", "."): value for name, value in self._parameters.items() if value is not None
        }
        for name in [key.removesuffix(".lora_a") for key in own if key.endswith(".lora_a")]:
            left, right = own.pop(f"{name}.lora_a"), own.pop(f"{name}.lora_b")
            if self.adapted:
                own[name] = own[name] + (left * self.scale) @ right
        return own


class _Embedding(_Part):
    def forward(self, x: Tensor, time: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return video_dit.embed(self.shape, self.weights(), x, time, tokens)


class _Block(_Part):
    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        return video_dit.block(self.shape, self.weights(), h, condition)


class _Head(_Part):
    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        return video_dit.head(self.shape, self.weights(), h, condition)


class BuiltInModel(Denoiser):
    """
    The video DiT. `inputs` are time [batch], tokens [batch, words] and the factors skip, in and out of the preconditioning,
    [batch, 1, 1, 1, 1].
    """

    def __init__(
        self,
        file: ModelFile,
        *,
        adapters: Adapters | None,
        values: Mapping[str, Array],
        trained: bool,
        rematerialise: bool,
        device: torch.device,
    ) -> None:
        """
        `values` are the adapters' at the beginning. `trained` says whether anything is trained: the adapters where there are
        any, else all weights.
        """
        super().__init__()
        self.parameterisation = file.config["parameterisation"]
        self.rematerialise = rematerialise
        shape = Shape(file.config, torch.float32, device)
        self.shape = shape

        def of(prefix: str) -> tuple[dict[str, Array], dict[str, Array]]:
            def inside(name: str) -> bool:
                if prefix == "":
                    return not name.startswith(("blocks.", "head."))
                return name.startswith(prefix)

            own = {name: array for name, array in file.tensors.items() if inside(name)}
            return own, {name: array for name, array in values.items() if inside(name)}

        self.embedding = _Embedding("", shape, *of(""))
        prefixes = [f"blocks.{place}." for place in range(shape.depth)]
        self.block_list = nn.ModuleList([_Block(prefix, shape, *of(prefix)) for prefix in prefixes])
        self.head = _Head("", shape, *of("head."))
        for part in self._parts():
            part.scale = 1.0 if adapters is None else adapters.alpha / adapters.rank
            for name, parameter in part.named().items():
                is_adapter = name.endswith((".lora_a", ".lora_b"))
                parameter.requires_grad_(trained and is_adapter == (adapters is not None))

    def _parts(self) -> list[_Part]:
        blocks = [block for block in self.block_list if isinstance(block, _Block)]
        return [self.embedding, *blocks, self.head]

    def trained(self) -> list[TrainedParameter]:
        found = []
        for part in self._parts():
            for name, parameter in part.named().items():
                matrix = name.removesuffix(".lora_a").removesuffix(".lora_b")
                scale = _RELATIVE_RATE if matrix.endswith(".relative") else 1.0
                if parameter.requires_grad:
                    found.append(TrainedParameter(name, parameter, scale, matrix.endswith(".weight")))
        return found

    def blocks(self) -> Iterable[nn.Module]:
        return self.block_list

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        for part in self._parts():
            part.adapted = False
        try:
            yield
        finally:
            for part in self._parts():
                part.adapted = True

    def forward(self, noised: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        h, condition = self.embedding(inputs["in"] * noised, inputs["time"], inputs["tokens"])
        for block in self.block_list:
            if self.rematerialise and torch.is_grad_enabled():
                h = checkpoint(block, h, condition, use_reentrant=False)
            else:
                h = block(h, condition)
        output: Tensor = self.head(h, condition)
        return inputs["skip"] * noised + inputs["out"] * output
