"""The memory that a model needs, estimated from the headers of its files, and the memory that is free."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_perception.models.base import ModelOutOfMemoryError
from vlm_perception.models.options import LoadOptions
from vlm_perception.models.weights import Header

TOKENS = 2048
"""Number of tokens, of image and text together, that the estimate assumes."""
SCORED = 64
"""Number of positions for which the estimate assumes the probabilities of the whole vocabulary."""
FIXED = 256 * 2**20
"""Memory [bytes] of libraries and of the vision tower's activations."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
QUANTIZED_BYTES = {"int8": 1.0, "int4": 0.5625}
"""Bytes per weight; int4 includes the scales, one float32 for 64 weights."""
_NOT_QUANTIZED = re.compile(r"embed|lm_head|shared\.weight")
PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Need:
    """Memory that a model needs: its number of `parameters`, the bytes of its `weights`, and those for `working`."""

    parameters: int
    weights: int
    working: int


def estimate(headers: Mapping[str, Header], config: Any, options: LoadOptions) -> Need:
    """Estimate what a model with these tensors and this transformers `config` needs; `options.dtype` is not auto.

    The weights are exact, except for what a family keeps in float32. The working memory is the sum of a key-value cache
    of `TOKENS`, the widest activations of two layers, three times the probabilities at `SCORED` positions in float32,
    and `FIXED`.
    """
    size = BYTES[options.dtype]
    parameters, weights = 0, 0.0
    for name, header in headers.items():
        numbers = 1
        for length in header.shape:
            numbers *= length
        parameters += numbers
        if not header.dtype.startswith(("F", "BF")) or header.dtype.startswith(("F8", "F4")):
            weights += header.bytes  # already quantised, or an index
        elif options.quantization != "none" and len(header.shape) == 2 and not _NOT_QUANTIZED.search(name):
            weights += numbers * QUANTIZED_BYTES[options.quantization]
        else:
            weights += numbers * size
    return Need(parameters, round(weights), _working(config.get_text_config(), size))


def _working(text: Any, size: int) -> int:
    def number(*names: str) -> int:
        return next((value for name in names if (value := _largest(text, name))), 0)

    width, heads = number("hidden_size", "d_model"), number("num_attention_heads", "num_heads")
    head = number("head_dim", "d_kv") or (width // heads if heads else 0)
    layers = number("num_hidden_layers", "num_layers")
    cache = 2 * layers * (number("num_key_value_heads") or heads) * head * TOKENS * size
    activations = 2 * (4 * width + 3 * number("intermediate_size", "ffn_dim", "d_ff")) * TOKENS * size
    return cache + activations + 3 * 4 * SCORED * number("vocab_size") + FIXED


def _largest(text: Any, name: str) -> int:
    """Return the largest number of this `name` among the model's layers, 0 without one."""
    try:
        value = getattr(text, name, None)
    except Exception:  # layers may differ, as in Gemma 4
        value = [getattr(layer, name, 0) for layer in text.per_layer_config]
    numbers = [n for n in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(n, int)]
    return max(numbers, default=0)


def check(name: str, need: Need, options: LoadOptions) -> None:
    """Raise ModelOutOfMemoryError, with figures and the remedy, when `need` is more than is free on `options.device`.

    Weights go to a GPU through the host's memory, so they must fit there too.
    """
    free, device = free_memory(options.device), options.device
    precision = options.dtype if options.quantization == "none" else options.quantization
    if need.weights + need.working > free:
        raise ModelOutOfMemoryError(
            f"{name} needs about {_words(need.weights + need.working)} on {device} ({_words(need.weights)} for "
            f"{need.parameters / 1e6:.0f} M parameters in {precision}, {_words(need.working)} to work) and "
            f"{_words(free)} are free: end other programs, choose a smaller model, dtype or quantization, or set "
            "check_memory to false to try it all the same"
        )
    if device != "cpu" and need.weights > (host := free_memory("cpu")):
        raise ModelOutOfMemoryError(
            f"{name} comes to {device} by way of the host's memory, where {_words(need.weights)} have to fit and "
            f"{_words(host)} are free: end other programs or choose a smaller model"
        )


def free_memory(device: str) -> int:
    """Return the bytes that a model could use on `device` (cpu, cuda or cuda:N)."""
    if device != "cpu":
        import torch

        if not torch.cuda.get_device_properties(device).is_integrated:
            free, _ = torch.cuda.mem_get_info(device)
            return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min([_available(), *_left_in_cgroups()])


def gpu_memory(device: str) -> tuple[int, int]:
    """Return the bytes in use by all programs, and the total, on a GPU (cuda or cuda:N)."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return total - free, total


def _available() -> int:
    for line in (PROC / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{PROC / 'meminfo'} tells no MemAvailable")


def _left_in_cgroups() -> Iterator[int]:
    """Yield the bytes that each control group of this process leaves; they limit containers and services."""
    for line in (PROC / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            files, root = ("memory.max", "memory.current", "inactive_file"), CGROUPS
        elif "memory" in controllers.split(","):
            files, root = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"), CGROUPS / "memory"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if (left := _left(folder, *files)) is not None:
                yield left
            if folder == root:
                break


def _left(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    try:
        most = (folder / limit).read_text().strip()
        if most == "max":
            return None
        cached = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(most) - int((folder / usage).read_text()) + int(cached.get(reclaimable, 0))
    except (OSError, ValueError):
        return None


def _words(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
