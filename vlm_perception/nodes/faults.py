"""Faults of a node: counts by kind, the last one in words, and a rate-limited log."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

from vlm_perception import text

WARN_PERIOD = 10.0
"""Shortest time between two log lines about one kind of fault, and time for which the diagnostics warn of it [s]."""
ADVICE = {
    "description": "labels and answers go on without descriptions; choose another model, or set description.rate to 0",
    "model": "it goes on with the next image; if this stays, cleanup and configure, or choose another model",
    "out of memory": "it uses smaller batches, waits and tries again; free memory, or choose a smaller model or dtype",
    "corrupt image": "it is skipped; check the camera's driver and cable",
    "internal": "an error in this package: please report it",
}


class Faults:
    """Faults of one object; `about` is its name in the log. Any thread may add faults."""

    def __init__(self, logger: Any, about: str | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._logger = logger
        self._about = f"{about}: " if about else ""
        self._last = (-math.inf, "")
        self._said: dict[str, float] = {}

    def add(self, kind: str, error: BaseException | str) -> None:
        """Count a fault of this `kind` and log it with the advice for that kind."""
        now = time.monotonic()
        self.counts[kind] += 1
        advice = f" ({ADVICE[kind]})" if kind in ADVICE else ""
        self._last = (now, f"{kind}: {one_line(error)}{advice}")
        if now - self._said.get(kind, -math.inf) > WARN_PERIOD:
            self._said[kind] = now
            self._logger.warning(self._about + self._last[1])

    @property
    def recent(self) -> str | None:
        """The last fault in words, if it is recent; else None."""
        since, words = self._last
        return words if time.monotonic() - since < WARN_PERIOD else None

    def metrics(self, *others: Faults) -> dict[str, object]:
        """Return the counts of each kind, with those of `others` added, for the diagnostics."""
        counts = self.counts.copy()
        for other in others:
            counts.update(other.counts.copy())
        return {f"faults, {kind}": count for kind, count in sorted(counts.items())}


def one_line(error: BaseException | str) -> str:
    """Return the text of `error` on one line, or the name of its class if it has no text."""
    return text.one_line(str(error)) or type(error).__name__
