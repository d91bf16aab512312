"""Whether the prompt leads the model to the labels, by the probability of all other answers."""

from __future__ import annotations

HIGH = 0.5
LONG = 10.0
"""Time [s] for which it must be high before it is reported."""


class OffMass:
    """Follows the `off_mass` of one camera's labels, see `questions.Answer`; `value` is the last, None if unknown."""

    def __init__(self) -> None:
        self.value: float | None = None
        self._high_since: float | None = None

    def update(self, off_mass: float | None, now: float) -> str | None:
        """Take in the `off_mass` of a label at `now` [s]; return a warning if it was high for long, else None."""
        self.value = off_mass
        if off_mass is None or off_mass < HIGH:
            self._high_since = None
            return None
        if self._high_since is None:
            self._high_since = now
        if now - self._high_since < LONG:
            return None
        return (
            f"the prompt does not lead to the labels: for {now - self._high_since:.0f} s the model would begin with "
            f"something else (off_mass {off_mass:.2f}); change label_prompt or labels, or take another model"
        )
