"""What perception hands over to be published or counted, as values."""

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
    """The label of a frame's scene: the model's `answer`, and the label `smoothed` over time."""

    frame: Frame
    answer: Answer
    smoothed: SmoothedLabel


@dataclass(frozen=True)
class Description:
    """What a frame shows, in free words."""

    frame: Frame
    answer: Answer


class Reply(NamedTuple):
    """The answers to an ask, in the order of its questions, and the frame that they are about."""

    frame: Frame
    answers: list[Answer]


class NotAnsweredError(Exception):
    """An ask that cannot be answered now; the text says why."""


@dataclass(frozen=True)
class Fault:
    """A fault of this `kind` in what comes from a `camera`, or, if that is None, in what all cameras share."""

    camera: str | None
    kind: str
    error: BaseException | str


@dataclass(frozen=True)
class Loaded:
    """The model is ready. `facts` are for people; `scope` is what it was taught, where that is a closed list."""

    facts: Mapping[str, str]
    scope: Scope | None = None


@dataclass(frozen=True)
class Failed:
    """The model cannot be used because of this `error`. It is the worker's last output."""

    error: BaseException


Output = Label | Description | Fault | Loaded | Failed
