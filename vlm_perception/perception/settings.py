"""Settings of perception: the recurring questions, their rates, and the processing of their answers."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_perception.models.scope import Scope
from vlm_perception.parameters import group, parameter
from vlm_perception.perception.answer_cache import CacheSettings
from vlm_perception.perception.smoothing import LabelSmoother, SmoothingSettings
from vlm_perception.questions import Choice, Text


@dataclass(frozen=True)
class LabelSettings:
    """The question that labels the scene. ValueError when its parts do not fit together."""

    options: tuple[str, ...] = parameter(
        ("clear", "obstacle", "wall", "doorway", "corridor"), "Possible labels of the scene"
    )
    prompt: str = parameter("what is ahead?", "Question that the model is asked for the label")
    descriptions: tuple[str, ...] = parameter(
        (), "Meaning of each label in more words. Give none, or one for each label; one may be empty"
    )
    rate: float = parameter(10.0, "Highest rate of labels; 0: never", unit="Hz", minimum=0.0, maximum=100.0)
    follow_motion: bool = parameter(
        False, "Label only the part of the image where something moves. For a camera that stands still"
    )

    def __post_init__(self) -> None:
        if len(self.descriptions) not in (0, len(self.options)):
            raise ValueError(
                f"there are {len(self.descriptions)} label.descriptions for {len(self.options)} label.options, "
                "expected none or one for each: change both together with the service set_parameters_atomically"
            )
        self.question  # noqa: B018 - raises for what cannot be asked

    @property
    def question(self) -> Choice:
        """The question for the model."""
        return Choice(self.prompt, self.options, self.descriptions)


@dataclass(frozen=True)
class DescriptionSettings:
    """The question that describes the scene. ValueError when it cannot be asked."""

    prompt: str = parameter("describe the scene", "Question that the model is asked for the description")
    phrases: tuple[str, ...] = parameter(
        (), "Phrases that a dual encoder chooses from for a description; none: its built-in phrases"
    )
    rate: float = parameter(0.5, "Highest rate of descriptions; 0: never", unit="Hz", minimum=0.0, maximum=10.0)
    max_new_tokens: int = parameter(
        64, "Length limit of a description and of an answer to a text question", unit="tokens", minimum=1, maximum=1024
    )

    def __post_init__(self) -> None:
        self.question  # noqa: B018 - raises for what cannot be asked

    @property
    def question(self) -> Text:
        """The question for the model."""
        return Text(self.prompt, self.max_new_tokens, self.phrases)


@dataclass(frozen=True)
class Settings:
    """The settings of all cameras.

    Frames of several cameras are collected for at most `batch_window` [s], and at most `max_batch` go to the model at
    once. Raises ValueError when the label and its smoothing do not fit together.
    """

    max_frame_age: float = parameter(
        1.0, "An image older than this is not looked at", unit="s", minimum=0.05, maximum=3600.0
    )
    label: LabelSettings = group(LabelSettings)
    description: DescriptionSettings = group(DescriptionSettings)
    smoothing: SmoothingSettings = group(SmoothingSettings)
    cache: CacheSettings = group(CacheSettings)
    batch_window: float = 0.05
    max_batch: int = 16

    def __post_init__(self) -> None:
        LabelSmoother(self.label.options, self.smoothing)

    def unknown(self, scope: Scope | None) -> str | None:
        """Return what of the label question a model of this `scope` was not taught; else None."""
        return scope.unknown(self.label.question) if scope and self.label.rate else None

    @property
    def rates(self) -> dict[str, float]:
        """Rate [Hz] of each recurring question, by name."""
        return {"label": self.label.rate, "description": self.description.rate}
