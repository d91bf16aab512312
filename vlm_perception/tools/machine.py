"""Description of the machine, for reports of measurements."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FAST_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "i8mm", "bf16")
"""Instruction sets for fast matrix products, by their names in /proc/cpuinfo."""


def describe(threads: int | None = None) -> list[str]:
    """Return lines about the processor, the memory, the load, the GPUs and the libraries.

    `threads` is the number of threads of torch, if it was set.
    """
    name, fast = processor()
    cores = f"{name}, {os.cpu_count()} cores" + (f" ({', '.join(fast)})" if fast else "")
    used = f", {threads} threads" if threads else ""
    lines = [f"{cores}{used}, {memory_in_all() / 2**30:.0f} GiB, load {os.getloadavg()[0]:.1f} before the start"]
    lines += gpus()
    lines.append(", ".join([*map(_version, ("torch", "transformers")), f"Python {platform.python_version()}"]))
    return lines


def processor() -> tuple[str, list[str]]:
    """Return the processor's name, and those of `FAST_INSTRUCTIONS` that it has."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    name = _device_tree() or facts.get("model name") or platform.processor() or platform.machine()
    return name, [flag for flag in FAST_INSTRUCTIONS if flag in flags]


def _device_tree() -> str | None:
    """Return the name of a board such as a Jetson or a Raspberry Pi; empty on other machines."""
    try:
        return Path("/proc/device-tree/model").read_text().rstrip("\0\n")
    except OSError:
        return None


def memory_in_all() -> int:
    """Return the bytes of memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gpus() -> list[str]:
    """Return a line with name and memory of each GPU that torch can use."""
    try:
        import torch
    except ImportError:
        return []
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}" for gpu in properties]


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"
