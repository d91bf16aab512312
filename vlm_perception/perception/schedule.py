"""Which recurring question of a camera is due. Pure: time is an argument."""

from __future__ import annotations

import math
from collections.abc import Mapping

EARLY = 0.01
"""Time [s] by which a question may be asked early, since images do not come evenly."""


class Schedule:
    """Recurring questions, each at its own rate and about each image at most once."""

    def __init__(self) -> None:
        self._rates: Mapping[str, float] = {}
        self._due: dict[str, float] = {}
        self._stamps: dict[str, int] = {}

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Set the rate [Hz] of each name; 0 is never. What was due stays due."""
        self._rates = dict(rates)

    def wait(self, now: float) -> float:
        """Return the seconds from `now` [s] until the next question is due: 0 when one is, inf when none will be."""
        waits = (max(0.0, self._begins(name, now) - now) for name, rate in self._rates.items() if rate)
        return min(waits, default=math.inf)

    def is_due(self, now: float, stamp: int) -> bool:
        """Whether any question is due at `now` [s] for the image of `stamp` [ns]."""
        return any(self._is_due(name, now, stamp) for name in self._rates)

    def take(self, name: str, now: float, stamp: int) -> bool:
        """Whether `name` is due at `now` [s] for the image of `stamp` [ns]; if it is, it counts as asked."""
        if not self._is_due(name, now, stamp):
            return False
        period = 1 / self._rates[name]
        # Keep the beat after a small delay; after a long one, do not catch up.
        beat = self._due.get(name, now) + period
        self._due[name] = beat if beat > now else now + period
        self._stamps[name] = stamp
        return True

    def _is_due(self, name: str, now: float, stamp: int) -> bool:
        return bool(self._rates.get(name)) and now >= self._begins(name, now) and stamp != self._stamps.get(name)

    def _begins(self, name: str, now: float) -> float:
        return self._due[name] - EARLY if name in self._due else now
