"""Whether the prompt leads to the labels: what a model would say to it that is none of them."""

from __future__ import annotations

HIGH = 0.5
LONG = 10.0
"""Time [s] that it must be high before it is reported."""


class OffMass:
    """Follows the `off_mass` of one camera's labels, see `questions.Answer`; `value` is the last, None if not known."""

    def __init__(self) -> None:
        self.value: float | None = None
        self._high_since: float | None = None

    def update(self, off_mass: float | None, now: float) -> str | None:
        """Take in that of the newest label, at `now` [s]; in words that it has been high for long, else None."""
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
