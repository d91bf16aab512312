"""Smoothing: from one label per image to a steady label. It depends on time, not on the number of images.

One of `METHODS` carries a belief over the options from image to image. The label follows the belief with hysteresis and
is `unknown` while in doubt. Pure: time is an argument.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vlm_perception.parameters import parameter

METHODS = ("bayes", "majority", "none")
MODEL_ERROR = 0.05
"""Probability that a sure model is wrong: so no single image decides."""


@dataclass(frozen=True)
class SmoothingSettings:
    """Settings of the smoothing. Raises ValueError when they do not fit together.

    `evidence_time` [s] is for `bayes`: images closer in time than this repeat each other and count less, so that 5 and
    30 images per second react alike.
    """

    method: str = parameter("bayes", "Method that smooths labels over time", choices=METHODS)
    window: float = parameter(
        2.0,
        "For majority: how long an image counts. After a longer gap, every method starts again",
        unit="s",
        minimum=0.0,
        maximum=60.0,
    )
    change_rate: float = parameter(
        0.2, "For bayes: expected number of changes of the scene per second", unit="1/s", minimum=0.0, maximum=100.0
    )
    enter_threshold: float = parameter(
        0.6, "Belief at which a label becomes the scene's label", minimum=0.0, maximum=1.0
    )
    leave_threshold: float = parameter(
        0.4, "Belief below which the scene's label becomes unknown", minimum=0.0, maximum=1.0
    )
    evidence_time: float = 0.2
    unknown: str = "unknown"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"smoothing.method is {self.method!r}, expected one of {', '.join(METHODS)}")
        if not 0 <= self.leave_threshold <= self.enter_threshold <= 1:
            raise ValueError(
                f"smoothing.leave_threshold is {self.leave_threshold} and smoothing.enter_threshold "
                f"{self.enter_threshold}, expected 0 <= leave_threshold <= enter_threshold <= 1"
            )


class SmoothedLabel(NamedTuple):
    """A `label` with the belief in it as `confidence`; for unknown, one minus the belief in the likeliest option."""

    label: str
    confidence: float


class LabelSmoother:
    """Smooths the answers to one question with the given `options`."""

    def __init__(self, options: Sequence[str], settings: SmoothingSettings) -> None:
        if settings.unknown in options:
            raise ValueError(f"{settings.unknown!r} is both an option and the word for doubt, expected different words")
        self.options = tuple(options)
        self.settings = settings
        self.reset()

    def reset(self) -> None:
        """Forget everything, as before the first image."""
        self.belief = [1 / len(self.options)] * len(self.options)
        self._history: deque[tuple[int, int]] = deque()
        self._stamp: int | None = None
        self._label: int | None = None

    def update(self, stamp: int, probabilities: Sequence[float]) -> SmoothedLabel:
        """Take in one image's `probabilities`, one per option, and return the label at `stamp` [ns].

        A gap longer than the window, or a stamp that jumps back (a bag that loops, a simulation that starts again),
        begins anew. A repeated stamp changes nothing. Raises ValueError for another number of probabilities.
        """
        if len(probabilities) != len(self.options):
            raise ValueError(f"{len(probabilities)} probabilities for {len(self.options)} options")
        elapsed = math.inf if self._stamp is None else (stamp - self._stamp) * 1e-9
        if elapsed == 0:
            return self._smoothed()
        if not 0 < elapsed <= self.settings.window:
            self.reset()
            elapsed = math.inf
        self._stamp = stamp
        self.belief = getattr(self, f"_{self.settings.method}")(elapsed, list(probabilities))
        self._decide()
        return self._smoothed()

    def _none(self, elapsed: float, probabilities: list[float]) -> list[float]:
        return probabilities

    def _majority(self, elapsed: float, probabilities: list[float]) -> list[float]:
        assert self._stamp is not None
        self._history.append((self._stamp, probabilities.index(max(probabilities))))
        while (self._stamp - self._history[0][0]) * 1e-9 > self.settings.window:
            self._history.popleft()
        votes = [0] * len(self.options)
        for _, option in self._history:
            votes[option] += 1
        return [count / len(self._history) for count in votes]

    def _bayes(self, elapsed: float, probabilities: list[float]) -> list[float]:
        """Return the belief: predict that the scene may have changed since, then add the evidence of now."""
        count = len(self.options)
        stays = math.exp(-self.settings.change_rate * elapsed)
        weight = 1.0 if self.settings.evidence_time == 0 else min(1.0, elapsed / self.settings.evidence_time)
        belief = [
            (stays * b + (1 - stays) / count) * ((1 - MODEL_ERROR) * p + MODEL_ERROR / count) ** weight
            for b, p in zip(self.belief, probabilities, strict=True)
        ]
        total = sum(belief)
        return [b / total for b in belief]

    def _decide(self) -> None:
        likeliest = max(self.belief)
        current = 0.0 if self._label is None else self.belief[self._label]
        if likeliest >= self.settings.enter_threshold and likeliest > current:
            self._label = self.belief.index(likeliest)
        elif current < self.settings.leave_threshold:
            self._label = None

    def _smoothed(self) -> SmoothedLabel:
        if self._label is None:
            return SmoothedLabel(self.settings.unknown, 1 - max(self.belief))
        return SmoothedLabel(self.options[self._label], self.belief[self._label])
