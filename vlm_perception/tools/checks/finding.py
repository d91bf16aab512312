"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """Green: as it should be. Yellow: it works, but not as well as it could, or not everything. Red: it cannot work."""

    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


@dataclass(frozen=True)
class Finding:
    """What is so about something, in `words`, and what to do about it unless it is green."""

    level: Severity
    about: str
    words: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if (self.level is Severity.GREEN) == bool(self.remedy):
            raise ValueError(
                f"{self.about}: {self.level.value} with the remedy {self.remedy!r}, expected one but for green"
            )


def green(about: str, words: str) -> Finding:
    """As it should be."""
    return Finding(Severity.GREEN, about, words)


def yellow(about: str, words: str, remedy: str) -> Finding:
    """It works, but not as well as it could, or not everything."""
    return Finding(Severity.YELLOW, about, words, remedy)


def red(about: str, words: str, remedy: str) -> Finding:
    """It cannot work."""
    return Finding(Severity.RED, about, words, remedy)
