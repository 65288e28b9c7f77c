"""
Training adapters on the denoiser of a diffusers pipeline, with PEFT (services/trainer/adapters/pipeline-trainee.ts trains the
same pipeline exported to ONNX).
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor, nn

from .data_set import ArtifactFolder, DataSet
from .denoiser import Denoiser, TrainedParameter, matches
from .errors import data_loss, invalid, unusable
from .feeds import Feeds, draw_step
from .job import Job
from .random_stream import random_stream
from .settings import Adapters
from .tensor_file import Array, encode_tensors, read_tensors
from .trainee import DrawnItem, Output, Trainee, stack
from .training_set import TrainingSet

_PEFT_METADATA = "lora_adapter_metadata"
_PREFIX = "transformer."
# Latents that are kept in memory by each process.
_KEPT_LATENTS = 256
# Denoisers that take fractions of a timestep; the others are told whole ones.
_FRACTIONAL = {"LTXVideoTransformer3DModel"}


@dataclass(frozen=True)
class Noise:
    """The noise that a model was trained on."""

    parameterisation: str
    # From a time in (0, 1) to signal, noise level and timestep.
    level: Callable[[float], tuple[float, float, float]]


def read_noise(folder: Path) -> Noise:
    """
    What the scheduler of a pipeline says.

    Raises JobError for a model that predicts something else than noise, velocity or flow.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    config: dict[str, Any] = _json(path)
    count = int(config.get("num_train_timesteps", 1000))
    kind = str(config.get("_class_name", ""))
    predicts = str(config.get("prediction_type", "epsilon"))
    if kind.startswith("FlowMatch") or predicts == "flow_prediction":
        return Noise("flow", lambda time: (1 - time, time, time * count))
    if predicts not in ("epsilon", "v_prediction"):
        raise invalid(
            "prediction_type",
            f"is {predicts} in {path}; models that predict epsilon, v_prediction or a flow can be trained",
        )
    bars = getattr(diffusers, kind).from_config(config).alphas_cumprod.double().tolist()

    def level(time: float) -> tuple[float, float, float]:
        timestep = min(math.floor(time * len(bars)), len(bars) - 1)
        return math.sqrt(bars[timestep]), math.sqrt(1 - bars[timestep]), float(timestep)

    return Noise("epsilon" if predicts == "epsilon" else "v", level)


class DiffusersModel(Denoiser):
    """
    A transformer of diffusers with adapters. `inputs` are timestep [batch] and encoder_hidden_states [batch, tokens, width],
    with encoder_attention_mask [batch, tokens] where the model takes one.
    """

    def __init__(
        self,
        transformer: nn.Module,
        parameterisation: str,
        adapters: Adapters,
        fixed: Mapping[str, Any],
        *,
        rematerialise: bool,
    ) -> None:
        """
        `fixed` are further arguments of the transformer, the same for all clips.

        Raises JobError naming a pattern that matches no linear layer, or a rank above what a layer can have.
        """
        super().__init__()
        self.parameterisation = parameterisation
        self.targets = adapted_layers(transformer, adapters)
        transformer.requires_grad_(False)
        # A pattern, as entries of a list also match ends of names.
        pattern = "|".join(name.replace(".", r"\.") for name in self.targets)
        config = LoraConfig(
            r=adapters.rank, lora_alpha=adapters.alpha, target_modules=pattern, lora_dropout=0.0, init_lora_weights=True
        )
        adapted: Any = transformer
        adapted.add_adapter(config)
        if rematerialise:
            adapted.enable_gradient_checkpointing()
        self.transformer: Any = adapted
        self.fixed = dict(fixed)

    def set_adapters(self, values: Mapping[str, Array]) -> None:
        """Values by `<module>.lora_A.weight` and `.lora_B.weight`."""
        with torch.no_grad():
            for one in self.trained():
                one.parameter.copy_(torch.from_numpy(values[one.name]))

    def trained(self) -> list[TrainedParameter]:
        return [
            TrainedParameter(name.replace(".default.weight", ".weight"), parameter, 1.0, True)
            for name, parameter in self.transformer.named_parameters()
            if ".lora_A." in name or ".lora_B." in name
        ]

    def blocks(self) -> Iterable[nn.Module]:
        lists = [module for _, module in self.transformer.named_children() if isinstance(module, nn.ModuleList)]
        return [block for one in lists for block in one]

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        self.transformer.disable_adapters()
        try:
            yield
        finally:
            self.transformer.enable_adapters()

    def forward(self, noised: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        prediction: Tensor = self.transformer(hidden_states=noised, return_dict=False, **inputs, **self.fixed)[0]
        return prediction


def adapted_layers(transformer: nn.Module, adapters: Adapters) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the linear layers that adapters go on, by name."""
    layers = {
        name: (module.in_features, module.out_features)
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear)
    }
    for place, pattern in enumerate(adapters.targets):
        if not any(matches(pattern, name) for name in layers):
            raise invalid(
                f"adapters.targets[{place}]",
                f'"{pattern}" matches no linear layer; they are called, for example, {", ".join(list(layers)[-4:])}',
            )
    picked = {name: size for name, size in layers.items() if any(matches(one, name) for one in adapters.targets)}
    for name, size in picked.items():
        if adapters.rank > min(size):
            raise invalid(
                "adapters.rank",
                f"is {adapters.rank}, but {name} {list(size)} has rank {min(size)} at most; lower it, or leave this layer "
                "out of adapters.targets",
            )
    return picked


def fresh_adapters(layers: Mapping[str, tuple[int, int]], rank: int, seed: str) -> dict[str, Array]:
    """Adapters that change nothing yet: A of variance 1 / inputs from the seed, B of 0."""
    values: dict[str, Array] = {}
    for name, (inputs, outputs) in layers.items():
        random = random_stream(seed, "adapters", f"{name}.lora_A.weight")
        drawn = random.gaussians(rank * inputs).astype(np.float64) * (1 / math.sqrt(inputs))
        values[f"{name}.lora_A.weight"] = drawn.astype(np.float32).reshape(rank, inputs)
        values[f"{name}.lora_B.weight"] = np.zeros((outputs, rank), np.float32)
    return values


def read_adapters(path: Path, layers: Mapping[str, tuple[int, int]], adapters: Adapters) -> dict[str, Array]:
    """
    Adapters of a PEFT file, scaled as the settings have it.

    Raises JobError where they are on other layers or of another rank.
    """
    tensors, metadata = read_tensors(path, "job.startAdapters")
    described: dict[str, Any] = json.loads(metadata.get(_PEFT_METADATA, "{}"))
    rank = int(described.get(f"{_PREFIX}r", adapters.rank))
    alpha = float(described.get(f"{_PREFIX}lora_alpha", rank))
    values = {name.removeprefix(_PREFIX): array for name, array in tensors.items()}
    wanted = fresh_adapters(layers, adapters.rank, "0")
    for name, array in wanted.items():
        if name not in values or values[name].shape != array.shape:
            raise invalid(
                "adapters", f"have {name} {list(array.shape)}, which {path} does not have so; use the settings of its training"
            )
    if extra := sorted(set(values) - set(wanted)):
        raise invalid("adapters.targets", f"leave out {extra[0]} of {path}; use the targets of its training")
    factor = alpha / rank / (adapters.alpha / adapters.rank)
    return {name: array * np.float32(factor) if ".lora_B." in name else array for name, array in values.items()}


class DiffusersTrainee(Trainee):
    """A pipeline's denoiser with the latents of a data set."""

    def __init__(
        self, job: Job, data_set: DataSet, training_set: TrainingSet, artifacts: ArtifactFolder, device: torch.device
    ) -> None:
        """Raises JobError for a folder, latents or adapters that do not fit."""
        if job.adapters is None:
            raise TypeError("a job on a model of diffusers has adapters")
        self._job = job
        self._artifacts = artifacts
        self._adapters = job.adapters
        self._samples = {sample.sample_id: sample for sample in data_set.samples}
        used = training_set.used_sample_ids()
        for one in used:
            if self._samples[one].latents is None:
                raise unusable(
                    "dataSet",
                    f"sample {one} has no latents, which a pipeline is trained on; sample it with store_latents, as runs do",
                )
        artifacts.check(
            {f"the latents of sample {one}": file for one in used if (file := self._samples[one].latents) is not None}
        )
        self._latents = lru_cache(maxsize=_KEPT_LATENTS)(self._read_latents)
        self._shape: tuple[int, ...] = ()
        self._shape = self._latents(used[0]).shape
        folder = job.base.source.path
        self._noise = read_noise(folder)
        kind = str(_json(folder / "transformer" / "config.json").get("_class_name", ""))
        if not hasattr(diffusers, kind):
            raise invalid("job.base", f"has a transformer of class {kind!r}, which this diffusers does not have")
        self._whole = kind not in _FRACTIONAL
        transformer = getattr(diffusers, kind).from_pretrained(folder, subfolder="transformer", torch_dtype=torch.float32)
        self.parameter_count = sum(parameter.numel() for parameter in transformer.parameters())
        captions = {sample.prompt_id: sample.prompt for sample in data_set.samples}
        prompts = {item.prompt_id: captions[item.prompt_id] for item in training_set.items}
        encoded = encode_texts(folder, ["", *prompts.values()], job.max_text_tokens, device)
        self._empty, self._texts = encoded[0], dict(zip(prompts, encoded[1:], strict=True))
        self.policy: DiffusersModel = DiffusersModel(
            transformer,
            self._noise.parameterisation,
            job.adapters,
            job.denoiser_inputs | rotary_inputs(transformer, self._shape),
            rematerialise=job.optimisation.rematerialise == "blocks",
        )
        layers = self.policy.targets
        self.policy.set_adapters(
            fresh_adapters(layers, job.adapters.rank, str(job.seed))
            if job.start_adapters is None
            else read_adapters(job.start_adapters.path, layers, job.adapters)
        )
        self.reference = None

    def _read_latents(self, sample_id: str) -> np.ndarray:
        latents = self._samples[sample_id].latents
        if latents is None:
            raise TypeError("latents were checked before")
        what = f"the latents of sample {sample_id}"
        self._artifacts.read(latents.sha256, what)
        tensors, _ = read_tensors(self._artifacts.path(latents.sha256), what)
        found = tensors.get("latents")
        # The first that is read says what all have.
        if found is None or found.shape != (self._shape or found.shape):
            has = "missing" if found is None else str(list(found.shape))
            raise data_loss(f"{what} are {has}; those of the others are {list(self._shape)}")
        return found

    def feeds(self, batch: Sequence[DrawnItem], rows: range, *, seed: str, step: int, caption_dropout: float) -> Feeds:
        timesteps = self._job.optimisation.timesteps
        draw = draw_step(seed, step, timesteps, caption_dropout, len(batch), math.prod(self._shape), rows)
        mine = [batch[row] for row in rows]
        levels = [self._noise.level(draw.times[row]) for row in rows]
        # Half a timestep goes up, as in JavaScript.
        times = [math.floor(level[2] + 0.5) if self._whole else level[2] for level in levels]
        texts = [self._empty if draw.dropped[row] else self._texts[batch[row].item.prompt_id] for row in rows]
        feeds = Feeds(
            x0=torch.from_numpy(stack([self._latents(one.item.sample_id) for one in mine])),
            noise=torch.from_numpy(draw.noise.reshape(len(rows), *self._shape)),
            signal=torch.tensor([level[0] for level in levels], dtype=torch.float32),
            noise_level=torch.tensor([level[1] for level in levels], dtype=torch.float32),
            levels={"timestep": torch.tensor(times, dtype=torch.int64 if self._whole else torch.float32)},
            text=_stacked(texts),
            weights=torch.tensor([one.weight for one in mine], dtype=torch.float32),
        )
        if mine[0].item.rejected_id is not None:
            feeds.rejected = torch.from_numpy(stack([self._latents(one.item.rejected_id or "") for one in mine]))
        if mine[0].item.accepted is not None:
            feeds.accepted = torch.tensor([float(bool(one.item.accepted)) for one in mine])
        if mine[0].mismatched is not None:
            feeds.mismatched = _stacked([self._texts[one.mismatched or ""] for one in mine])
        return feeds

    def encode(self, values: Mapping[str, Array]) -> Output:
        """Adapters in the naming of PEFT and diffusers, the factor alpha / rank within B: alpha is the rank for all readers."""
        scale = np.float32(self._adapters.alpha / self._adapters.rank)
        tensors = {
            f"{_PREFIX}{name}": array * scale if name.endswith(".lora_B.weight") else array for name, array in values.items()
        }
        described = {
            f"{_PREFIX}r": self._adapters.rank,
            f"{_PREFIX}lora_alpha": self._adapters.rank,
            f"{_PREFIX}target_modules": list(self.policy.targets),
        }
        text = json.dumps(described, ensure_ascii=False, separators=(",", ":"))
        return Output(None, encode_tensors(tensors, {"format": "pt", _PEFT_METADATA: text}))


def rotary_inputs(transformer: Any, latents: Sequence[int]) -> dict[str, Any]:
    """
    Rotary positions of CogVideoX, which its pipeline computes and not its transformer; `latents` are [frames, channels, height,
    width].
    """
    config = transformer.config
    if not config.get("use_rotary_positional_embeddings", False):
        return {}
    frames, _, height, width = latents
    # The pipeline's own way, for which no component has to be loaded.
    pipeline = diffusers.CogVideoXPipeline.__new__(diffusers.CogVideoXPipeline)
    pipeline.transformer = transformer
    pipeline.vae_scale_factor_spatial = 8
    rotary = pipeline._prepare_rotary_positional_embeddings(height * 8, width * 8, frames, torch.device("cpu"))
    return {"image_rotary_emb": rotary}


def encode_texts(folder: Path, prompts: Sequence[str], max_tokens: int | None, device: torch.device) -> list[dict[str, Tensor]]:
    """Every prompt through the pipeline's text encoder, which is unloaded again before training begins."""
    pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(folder, transformer=None, vae=None)
    pipeline.text_encoder.to(device)
    limit = {} if max_tokens is None else {"max_sequence_length": max_tokens}
    encoded: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for prompt in prompts:
            embeddings, second, *_ = pipeline.encode_prompt(
                prompt=prompt, do_classifier_free_guidance=False, device=device, **limit
            )
            text = {"encoder_hidden_states": embeddings[0].float().cpu()}
            # LTX-Video gives the mask of the prompt in second place, the others the embeddings of the negative prompt.
            if second is not None and second.dim() == 2:
                text["encoder_attention_mask"] = second[0].cpu()
            encoded.append(text)
    del pipeline
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return encoded


def _stacked(texts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([text[name] for text in texts]) for name in texts[0]}


def _json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise invalid(
            "job.base", f"{path} is not there; give a folder in the layout of diffusers, with PyTorch's weights"
        ) from error
    except ValueError as error:
        raise data_loss(f"{path} is not JSON: {error}") from error
    return value
