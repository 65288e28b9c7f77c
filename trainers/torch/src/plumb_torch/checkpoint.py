"""
Checkpoints in the layout of the ONNX engine (packages/diffusion/src/training-state-file.ts): one safetensors file of tensors
`parameters/<name>`, `ema/<name>`, `firstMoment/<name>` and `secondMoment/<name>`, each flat, with the step in its metadata.
Either trainer goes on from the other's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .errors import data_loss, misconfigured
from .tensor_file import Array, encode_tensors, read_tensors, write_durably

_STEP = "plumb.step"
_WORLD = "plumb.world-size"
_FILE = re.compile(r"step-(\d{8})\.safetensors")
PARTS = ("parameters", "ema", "firstMoment", "secondMoment")


@dataclass(frozen=True)
class TrainingState:
    """Everything that a training needs to go on, by name of parameter; values are flat."""

    # Steps done.
    step: int
    parts: dict[str, dict[str, Array]]
    # Processes that made it; None for a state of the ONNX engine.
    world_size: int | None


def encode_state(state: TrainingState) -> bytes:
    tensors = {f"{part}/{name}": values.reshape(-1) for part in PARTS for name, values in state.parts.get(part, {}).items()}
    metadata = {_STEP: str(state.step)}
    if state.world_size is not None:
        metadata[_WORLD] = str(state.world_size)
    return encode_tensors(tensors, metadata)


def read_state(path: Path) -> TrainingState:
    """Raises JobError DATA_LOSS naming what is wrong."""
    what = "the checkpoint"
    tensors, metadata = read_tensors(path, what)
    step = metadata.get(_STEP, "")
    if not step.isdigit():
        raise data_loss(f"{what}: {path} is not a training state: its metadata has no {_STEP}")
    if "plumb.loss-scaling" in metadata:
        raise misconfigured("--resume", f"{path} is the state of a float16 job, which this trainer does not run")
    parts: dict[str, dict[str, Array]] = {part: {} for part in PARTS}
    for key, values in tensors.items():
        part, _, name = key.partition("/")
        if part not in parts:
            raise data_loss(f"{what}: {path} has {key}, which is not a part of a training state")
        parts[part][name] = values
    world = metadata.get(_WORLD)
    return TrainingState(int(step), parts, None if world is None else int(world))


class CheckpointFolder:
    """The checkpoints of a job, of which the newest two are kept: who follows the job may still read the one before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def newest_step(self) -> int:
        """0 where there is none."""
        return max(self._steps(), default=0)

    def path(self, step: int) -> Path:
        return self._folder / f"step-{step:08}.safetensors"

    def write(self, state: TrainingState) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_durably(self.path(state.step), encode_state(state))
        for step in sorted(self._steps())[:-2]:
            self.path(step).unlink()

    def _steps(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        return [int(match[1]) for match in map(_FILE.fullmatch, (one.name for one in self._folder.iterdir())) if match]
