"""How long an answer is awaited before it counts as lost."""

from __future__ import annotations

TIMES = 4.0
"""An answer is awaited for so many times as long as one takes."""
FALLS = 0.1
"""After a slow answer, each quicker one takes away so much of the difference."""


class Patience:
    """Learns how long answers take, and says when one is lost: soon with a quick model, late with a slow one.

    `least` [s] is awaited in any case. Times are those of a steady clock.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._usual = 0.0

    def took(self, seconds: float) -> None:
        """Take how long [s] an answer took, or how long one was awaited in vain."""
        self._usual = max(seconds, self._usual + FALLS * (seconds - self._usual))

    def limit(self, most: float) -> float:
        """Return how long [s] the next answer is awaited: `most` before anything is known, and never longer."""
        return min(most, max(self._least, TIMES * self._usual)) if self._usual else most
