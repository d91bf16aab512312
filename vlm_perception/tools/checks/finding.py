"""Findings of the checks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """Severity of a finding. Green: it is right. Yellow: it works, but not fully or not well. Red: it cannot work."""

    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


@dataclass(frozen=True)
class Finding:
    """A finding `about` something in `words`, with a `remedy` unless it is green."""

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
    """Return a finding that something is right."""
    return Finding(Severity.GREEN, about, words)


def yellow(about: str, words: str, remedy: str) -> Finding:
    """Return a finding that something works, but not fully or not well."""
    return Finding(Severity.YELLOW, about, words, remedy)


def red(about: str, words: str, remedy: str) -> Finding:
    """Return a finding that something cannot work."""
    return Finding(Severity.RED, about, words, remedy)
