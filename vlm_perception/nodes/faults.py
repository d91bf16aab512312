"""What went wrong: counted by kind, the last in words, and said in the log without flooding it."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

from vlm_perception import text

WARN_PERIOD = 10.0
"""Shortest time between two log lines about the same kind of fault, and how long the diagnostics warn of it [s]."""
ADVICE = {
    "description": "labels and answers go on without; choose another model, or set description_rate to 0",
    "model": "it goes on with the next image; if this stays, cleanup and configure, or choose another model",
    "out of memory": "it asks less at once, waits and tries again; free some, or choose a smaller model or dtype",
    "corrupt image": "it is skipped; are the camera's driver and its cable in order?",
    "internal": "a mistake in this package: please report it",
}


class Faults:
    """The faults of one thing, which is named in the log if it is `about` something. Any thread may add."""

    def __init__(self, logger: Any, about: str | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._logger = logger
        self._about = f"{about}: " if about else ""
        self._last = (-math.inf, "")
        self._said: dict[str, float] = {}

    def add(self, kind: str, error: BaseException | str) -> None:
        """Count a fault of this `kind`, with the advice that there is for it."""
        now = time.monotonic()
        self.counts[kind] += 1
        advice = f" ({ADVICE[kind]})" if kind in ADVICE else ""
        self._last = (now, f"{kind}: {one_line(error)}{advice}")
        if now - self._said.get(kind, -math.inf) > WARN_PERIOD:
            self._said[kind] = now
            self._logger.warning(self._about + self._last[1])

    @property
    def recent(self) -> str | None:
        """The last fault in words, if it is not long ago; else None."""
        since, words = self._last
        return words if time.monotonic() - since < WARN_PERIOD else None

    def metrics(self, *others: Faults) -> dict[str, object]:
        """How many of each kind, together with those of `others`, for the diagnostics."""
        counts = self.counts.copy()
        for other in others:
            counts.update(other.counts.copy())
        return {f"faults, {kind}": count for kind, count in sorted(counts.items())}


def one_line(error: BaseException | str) -> str:
    """What went wrong; errors that carry no words are named."""
    return text.one_line(str(error)) or type(error).__name__
