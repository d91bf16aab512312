"""The headers of a model folder's safetensors files; no tensor is read.

The format: 8 bytes with the header's length N, little-endian; N bytes of JSON with dtype, shape and place of
every tensor; the tensors (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vlm_perception.models.base import ModelError
from vlm_perception.models.explained import explained
from vlm_perception.models.folder import AGAIN, MAX_JSON, read_json, refuse_pointer

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "F16": 16, "BF16": 16, "I32": 32, "F32": 32, "I64": 64, "F64": 64}
"""Bits per number, of the types whose size follows from the shape."""


@dataclass(frozen=True)
class Header:
    """The header of a tensor: its `dtype` in safetensors (F32, BF16, I8, ...), its `shape` and its size in `bytes`."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


def read_headers(folder: Path) -> dict[str, Header]:
    """Return the header of every tensor in the folder, by name.

    Raises ModelError when weights are missing, incomplete, or no safetensors.
    """
    headers: dict[str, Header] = {}
    for file in weight_files(folder):
        headers.update(_read_header(file))
    return headers


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers reads the weights from. Raises ModelError when one is missing."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        raise ModelError(_why_no_weights(folder))
    index = read_json(folder / INDEX)
    names = index.get("weight_map") if isinstance(index, dict) else None
    names = set(names.values()) if isinstance(names, dict) and all(isinstance(n, str) for n in names.values()) else None
    if not names:
        raise ModelError(f"{folder / INDEX} cannot be read, expected weight_map with a file for every weight: {AGAIN}")
    if outside := [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]:
        raise ModelError(f"{folder / INDEX} names {outside[0]!r:.200}, which lies outside the folder: {AGAIN}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of the {len(names)} files with its weights, e.g. {missing[0]}"
            f"{_unfinished(folder)}: {AGAIN}"
        )
    return [folder / name for name in sorted(names)]


def _read_header(file: Path) -> dict[str, Header]:
    refuse_pointer(file)
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= min(size - 8, MAX_JSON):
            raise ModelError(f"{file} is cut off or no safetensors file, it has {size} bytes: {AGAIN}")
        with explained(file, "is no safetensors file", AGAIN):
            entries = json.loads(opened.read(length))
            headers = {name: _header(entry) for name, entry in entries.items() if name != "__metadata__"}
    expected = 8 + length + sum(header.bytes for header in headers.values())
    if size < expected:
        raise ModelError(f"{file} has {size} bytes of {expected}, is the download complete? If not, {AGAIN}")
    return headers


def _header(entry: dict[str, Any]) -> Header:
    """Return the header of an `entry`. May raise anything when it is none."""
    dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    header = Header(dtype, shape, end - start)
    if not all(isinstance(length, int) and length >= 0 for length in shape) or header.bytes < 0:
        raise ValueError(f"a tensor of shape {shape} in {header.bytes} bytes")
    if dtype in _BITS and math.prod(shape) * _BITS[dtype] != 8 * header.bytes:
        raise ValueError(f"a tensor of shape {shape} and type {dtype} in {header.bytes} bytes")
    return header


def _why_no_weights(folder: Path) -> str:
    others = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in folder.glob(pattern))
    named = sorted(file.name for file in folder.glob("*.safetensors"))
    if named:
        return (
            f"{folder} has {named[0]} but neither {WHOLE} nor {INDEX}, which transformers reads: "
            "is it the whole folder of one model? A variant or adapter has to be saved as a model of its own"
        )
    if others:
        return (
            f"{folder} has no *.safetensors; other weight files such as {others[0]} can run code when loaded and are "
            "refused: convert them with save_pretrained"
        )
    if gguf := sorted(file.name for file in folder.glob("*.gguf")):
        return f"{folder} has no *.safetensors; {gguf[0]} is for llama.cpp: take the original model's folder"
    return (
        f"{folder} has a config.json but no *.safetensors{_unfinished(folder)}: the model may be gated. Accept the "
        f"licence on its page, `hf auth login`, then {AGAIN}"
    )


def _unfinished(folder: Path) -> str:
    """Return in words that an incomplete download is there, else an empty text."""
    return " and a download that was cut (*.incomplete)" if any(folder.rglob("*.incomplete")) else ""
