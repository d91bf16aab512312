"""What comes out of perception, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from vlm_perception.models.scope import Scope
from vlm_perception.perception.frame import Frame
from vlm_perception.perception.smoothing import SmoothedLabel
from vlm_perception.questions import Answer


@dataclass(frozen=True)
class Label:
    """What a frame's scene is called: the model's `answer` about it, and the label `smoothed` over time."""

    frame: Frame
    answer: Answer
    smoothed: SmoothedLabel


@dataclass(frozen=True)
class Description:
    """What a frame shows, in free words."""

    frame: Frame
    answer: Answer


class Reply(NamedTuple):
    """The answers to somebody's questions, in their order, and the frame that they are about."""

    frame: Frame
    answers: list[Answer]


class NotAnsweredError(Exception):
    """Why a question could not be answered now, in words."""


@dataclass(frozen=True)
class Fault:
    """What went wrong, by `kind`: with a `camera`, or, when that is None, with what all of them share."""

    camera: str | None
    kind: str
    error: BaseException | str


@dataclass(frozen=True)
class Loaded:
    """The model is there; `facts` about it for people, and the `scope` of what it was taught, if that is closed."""

    facts: Mapping[str, str]
    scope: Scope | None = None


@dataclass(frozen=True)
class Failed:
    """The model cannot be used because of this `error`, and nothing more will come."""

    error: BaseException


Output = Label | Description | Fault | Loaded | Failed
