"""The cost of a call: its time and its peak of memory."""

from __future__ import annotations

import contextlib
import resource
import time
from pathlib import Path

import torch

from vlm_perception.questions import Usage


class Meter:
    """Measures from its creation on: on a GPU the peak of its memory, else that of this process's resident memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            reset_host_peak()
        self._encoding = 0.0
        self._start = time.perf_counter()

    def now(self) -> float:
        """Return the seconds since the beginning."""
        return time.perf_counter() - self._start

    def encoded(self) -> None:
        """Note that the image is encoded now."""
        self._encoding = self.now()

    def usage(self, first_token: float, tokens: int = 0) -> Usage:
        """Return the cost until now; `first_token` is its time [s] since the beginning."""
        return Usage(self.now(), first_token, tokens, self._peak(), self._encoding)

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else host_peak()


def reset_host_peak() -> None:
    """Start `host_peak` again, if the system allows it; else the peak is that since the process began."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def host_peak() -> int:
    """Return the most resident memory [bytes] that this process had since `reset_host_peak`."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
