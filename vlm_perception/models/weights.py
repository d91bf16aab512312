"""What a model folder's safetensors files hold, from their headers alone: no tensor is read.

The format: 8 bytes with the header's length N, little-endian; N bytes of JSON with dtype, shape and place of
every tensor; the tensors (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from vlm_perception.models.base import ModelError

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
_LFS_POINTER = b"version https://git-lfs.github.com/"
_AGAIN = "download it again, e.g. `hf download OWNER/MODEL --local-dir FOLDER`, which goes on where it was cut"


@dataclass(frozen=True)
class Header:
    """Of one tensor: `dtype` as safetensors names it (F32, BF16, I8, ...), its `shape` and size in `bytes`."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


def read_headers(folder: Path) -> dict[str, Header]:
    """Return the header of every tensor in the folder, by name.

    Raises ModelError when weights are missing, have not arrived whole, or are no safetensors.
    """
    headers: dict[str, Header] = {}
    for file in weight_files(folder):
        headers.update(_read_header(file))
    return headers


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers reads the weights from. Raises ModelError when one is not there."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        raise ModelError(_why_no_weights(folder))
    refuse_pointer(folder / INDEX)
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / INDEX} cannot be read ({error!r}): {_AGAIN}") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of the {len(names)} files with its weights, e.g. {missing[0]}"
            f"{_unfinished(folder)}: {_AGAIN}"
        )
    return [folder / name for name in names]


def refuse_pointer(file: Path) -> None:
    """Raise ModelError when `file` is what git leaves in place of a large file."""
    with file.open("rb") as opened:
        if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ModelError(
                f"{file} is a Git LFS pointer and not the file itself: run `git lfs install` and `git lfs pull` there, "
                "or download it with `hf download`"
            )


def _read_header(file: Path) -> dict[str, Header]:
    refuse_pointer(file)
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ModelError(f"{file} is cut off or no safetensors file, it has {size} bytes: {_AGAIN}")
        try:
            entries = json.loads(opened.read(length))
            headers = {
                name: Header(entry["dtype"], tuple(entry["shape"]), entry["data_offsets"][1] - entry["data_offsets"][0])
                for name, entry in entries.items()
                if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ModelError(f"{file} is no safetensors file ({error!r}): {_AGAIN}") from error
    expected = 8 + length + sum(header.bytes for header in headers.values())
    if size < expected:
        raise ModelError(f"{file} has {size} bytes of {expected}, is the download complete? If not, {_AGAIN}")
    return headers


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
        f"licence on its page, `hf auth login`, then {_AGAIN}"
    )


def _unfinished(folder: Path) -> str:
    """Say so when the hub's own download was cut, which leaves such files."""
    return " and a download that was cut (*.incomplete)" if any(folder.rglob("*.incomplete")) else ""
