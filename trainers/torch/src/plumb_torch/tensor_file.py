"""
Safetensors files, laid out byte by byte as Plumb's own writer lays them out (packages/tensor-graph/src/safetensors.ts): a
model is known by the hash of its file, so equal weights must give equal files whoever writes them. The safetensors package
orders metadata otherwise; it reads these files.
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from .canonical_json import code_units
from .errors import JobError, data_loss

Array = NDArray[np.float32]


def encode_tensors(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """The file of float32 tensors with free text."""
    header: dict[str, object] = {}
    if metadata:
        header["__metadata__"] = {key: metadata[key] for key in sorted(metadata, key=code_units)}
    offset = 0
    parts: list[bytes] = []
    for name in sorted(tensors, key=code_units):
        array = np.array(tensors[name], dtype="<f4", order="C")
        data = array.tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        offset += len(data)
        parts.append(data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def read_tensors(path: Path, what: str) -> tuple[dict[str, Array], dict[str, str]]:
    """
    Tensors of a file as float32, and its free text.

    Raises JobError DATA_LOSS naming `what` for a file that is not safetensors or holds something that is not finite.
    """
    tensors: dict[str, Array] = {}
    try:
        with safe_open(path, "numpy") as file:
            metadata = dict(file.metadata() or {})
            for name in file.keys():  # noqa: SIM118
                tensors[name] = file.get_tensor(name).astype(np.float32)
    except FileNotFoundError as error:
        raise JobError("NOT_FOUND", "FILE_NOT_FOUND", f"{what}: {path} is not there") from error
    except SafetensorError as error:
        raise data_loss(f"{what}: {path} is not a safetensors file: {error}") from error
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise data_loss(f"{what}: {name} has values that are not finite")
    return tensors, metadata


def sha256_of(data: bytes) -> str:
    """Lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_durably(path: Path, data: bytes) -> None:
    """A reader sees the whole file or what was there before; so does who comes after a crash."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
