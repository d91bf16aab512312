"""Tensors of checkpoints, read one by one and written in files that fit into memory."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

FILE_SIZE = 2 * 2**30
"""Largest size of a file of weights [bytes]."""


@dataclass(frozen=True)
class Piece:
    """A tensor in a file, read by `read` only."""

    shape: tuple[int, ...]
    read: Callable[[], Any]


Pieces = dict[str, Piece]


def open_pieces(path: Path) -> Pieces:
    """Return the tensors of a model folder or a checkpoint file, without reading them. Raises ModelError."""
    from vlm_perception.models.base import ModelError
    from vlm_perception.models.weights import INDEX, WHOLE, weight_files

    if not path.exists():
        raise ModelError(f"{path} does not exist, expected a model folder or a checkpoint file")
    files = [path]
    if path.is_dir():
        files = sorted(path.glob("pytorch_model*.bin"))
        if not files or (path / WHOLE).is_file() or (path / INDEX).is_file():
            files = weight_files(path)
    pieces: Pieces = {}
    for file in files:
        pieces |= _open_safetensors(file) if file.suffix == ".safetensors" else _open_checkpoint(file)
    return pieces


def _open_safetensors(file: Path) -> Pieces:
    from safetensors import SafetensorError, safe_open

    from vlm_perception.models.base import ModelError

    try:
        opened = safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ModelError(f"{file} cannot be read ({error}): is the download complete?") from error
    return {
        name: Piece(tuple(opened.get_slice(name).get_shape()), partial(opened.get_tensor, name))
        for name in opened.keys()  # noqa: SIM118, it is no dictionary
    }


def _open_checkpoint(file: Path) -> Pieces:
    """Return the tensors of a file by `torch.save`. A file with more than tensors and plain values is refused."""
    import pickle

    import torch

    from vlm_perception.models.base import ModelError

    try:
        try:
            saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # a file from before torch 1.6, which cannot be mapped
            saved = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{file} cannot be read: {str(error).splitlines()[0]:.200}; is the download complete? A file that holds "
            "more than tensors and plain values is refused, as it could run code"
        ) from error
    state = saved.get("model", saved) if isinstance(saved, dict) else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ModelError(f"{file} holds no tensors by name, expected a state dictionary or one under 'model'")
    return {name: Piece(tuple(tensor.shape), partial(lambda value: value, tensor)) for name, tensor in tensors.items()}


def write(pieces: Pieces, dtype: Any, folder: Path, say: Callable[[str], None]) -> None:
    """Write model*.safetensors and their index, with one file in memory at a time. Raises ModelError."""
    import torch
    from safetensors.torch import save_file

    from vlm_perception.models.base import ModelError
    from vlm_perception.models.weights import INDEX, WHOLE

    def dtype_of(name: str) -> Any:  # transformers needs the Q-Former in its own precision
        return torch.float32 if name.startswith(("qformer.", "query_tokens")) else dtype

    sizes = {name: math.prod(piece.shape) * dtype_of(name).itemsize for name, piece in pieces.items()}
    total = sum(sizes.values())
    if (free := shutil.disk_usage(folder).free) < total:
        raise ModelError(
            f"{folder.parent} has {free / 2**30:.1f} GiB left, the model takes {total / 2**30:.1f}: make room"
        )
    files: list[list[str]] = [[]]
    for name in sorted(pieces):
        if files[-1] and sum(sizes[other] for other in files[-1]) + sizes[name] > FILE_SIZE:
            files.append([])
        files[-1].append(name)
    index: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        file = WHOLE if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        tensors = {}
        for name in names:
            tensor = pieces[name].read()
            tensors[name] = tensor.to(dtype_of(name)).contiguous()
            if not torch.isfinite(tensors[name]).all():
                raise ModelError(f"{name} has numbers that {dtype} cannot represent: choose another --dtype")
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
        say(f"wrote file {number} of {len(files)}")
    if len(files) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / INDEX).write_text(json.dumps(content, indent=2), encoding="utf-8")
