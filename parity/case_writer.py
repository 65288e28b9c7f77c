"""Collects cases and writes them: tensors as safetensors, everything else as one JSON index."""

import json
import platform
import zlib
from pathlib import Path

import diffusers
import numpy as np
import onnx
import peft
import safetensors
import torch
from safetensors.numpy import save_file

SEED = 20241202


def random_of(name):
    """A generator of its own for each name, so that a new case does not change the others."""
    return np.random.default_rng([SEED, zlib.crc32(name.encode())])


def stored(value):
    """What is written for a value: floats are rounded to float32, whatever they were computed in."""
    array = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    # Not ascontiguousarray, which turns scalars into vectors.
    return np.array(array, order="C")


class CaseWriter:
    """Cases by kind; each kind has its own file of tensors."""

    def __init__(self):
        self.cases = []
        self.shared = {}
        self.tensors = {}

    def add(self, kind, name, tensors, **fields):
        """Adds a case. Its tensors are stored as `<name>:<role>`."""
        if any(case["name"] == name for case in self.cases):
            raise ValueError(f"two cases are called {name}")
        self.cases.append({"name": name, "kind": kind, **fields})
        own = self.tensors.setdefault(kind, {})
        for role, value in tensors.items():
            own[f"{name}:{role}"] = stored(value)

    def share(self, kind, name, tensors, **fields):
        """Adds tensors that several cases of a kind read, as `<name>:<role>`, with plain values beside them."""
        self.shared[name] = fields
        own = self.tensors.setdefault(kind, {})
        for role, value in tensors.items():
            own[f"{name}:{role}"] = stored(value)

    def write(self, folder):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for kind, tensors in self.tensors.items():
            for name, array in tensors.items():
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise ValueError(f"{name} is not finite")
            save_file(tensors, folder / f"{kind}.safetensors")
        index = {
            "format": 1,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__.split("+")[0],
                "numpy": np.__version__,
                "safetensors": safetensors.__version__,
                "diffusers": diffusers.__version__,
                "peft": peft.__version__,
                "onnx": onnx.__version__,
            },
            "shared": self.shared,
            "cases": self.cases,
        }
        (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")
