"""What the worker does by itself."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_perception.models.scope import Scope
from vlm_perception.perception.reuse import ReuseSettings
from vlm_perception.perception.smoothing import LabelSmoother, SmoothingSettings
from vlm_perception.questions import Choice, Text


@dataclass(frozen=True)
class Settings:
    """What the worker asks about every camera, how often [Hz], 0 is never; `max_age` [s] of a picture worth looking at.

    Cameras that are due are looked at together: pictures are collected for at most `batch_window` [s], and at most
    `max_batch` go to the model at once. With `follow_motion` the label is about what moves. `reuse` says when answers
    are used again. Raises ValueError when the label and its smoothing do not fit together.
    """

    label: Choice
    label_rate: float
    description: Text
    description_rate: float
    max_age: float
    smoothing: SmoothingSettings
    batch_window: float = 0.05
    max_batch: int = 16
    follow_motion: bool = False
    reuse: ReuseSettings = ReuseSettings()

    def __post_init__(self) -> None:
        LabelSmoother(self.label.options, self.smoothing)

    def unknown(self, scope: Scope | None) -> str:
        """Return what of the label a model of this `scope` was not taught, in words; else ""."""
        return scope.unknown(self.label) if scope and self.label_rate else ""

    @property
    def rates(self) -> dict[str, float]:
        """How often [Hz] each recurring question is asked."""
        return {"label": self.label_rate, "description": self.description_rate}
