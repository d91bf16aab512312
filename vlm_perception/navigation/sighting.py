"""From a model's answers to what a robot can act on: where the target is, and what is ahead."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vlm_perception.questions import Answer, check_text

MAX_TARGET_CHARACTERS = 100
ARTICLES = ("the", "a", "an")
DIRECTIONS = ("left", "center", "right")
RANGES = ("near", "far")
ABSENT = "absent"
MEANINGS = (ABSENT, *(f"{direction} {distance}" for direction in DIRECTIONS for distance in RANGES))
"""What the options of the target question mean, in this order."""
CONTRADICTION = 0.65
"""From this probability up two answers contradict each other; two that do not know stay below it."""


class UnusableAnswerError(ValueError):
    """An answer that must not move a robot; the message says what is wrong with it."""


def check_target(text: str) -> str:
    """Return the one spelling of a target's name: lower case, single blanks, no article; "The Blue  box" is "blue box".

    Raises ValueError when a name is not usable.
    """
    check_text("the target", text, MAX_TARGET_CHARACTERS)
    if "\n" in text.strip():
        raise ValueError("the target contains a line break, expected the name of one thing, for example 'red ball'")
    words = unicodedata.normalize("NFC", text).lower().split()
    return " ".join(words[1:] if words[0] in ARTICLES and len(words) > 1 else words)


@dataclass(frozen=True)
class Sighting:
    """Where the target was in the image taken at `stamp` [s]; probabilities are in 0..1.

    `bearing` [rad, positive left] is the probability-weighted centre of the image's thirds. `near` is the
    probability of near for a visible target, `in_reach` the one of being visible, near and in the center.
    `direction` and `range` belong to the most probable answer and are empty when that is "absent". `distance` [m] is
    measured in that direction, and NaN when nobody measures.
    """

    stamp: float
    visible: float
    near: float
    in_reach: float
    bearing: float
    direction: str
    range: str
    confidence: float
    distance: float = math.nan
    chances: tuple[float, ...] = ()
    """The probabilities of absent, left near, left far, center near, center far, right near, right far."""

    def measured(self, distance: float, near_distance: float) -> Sighting:
        """Return the same with a `distance` [m, NaN when unknown]: what is farther than `near_distance` is not near."""
        if not distance > near_distance:
            return replace(self, distance=distance)
        by_range = zip(self.chances[1::2], self.chances[2::2], strict=True)
        chances = (*self.chances[:1], *(part for near, far in by_range for part in (0.0, near + far)))
        return replace(self, distance=distance, near=0.0, in_reach=0.0, range=self.range and "far", chances=chances)


def third(direction: str, field_of_view: float) -> tuple[float, float]:
    """Return the bearings [rad, positive left] of the right and the left border of a third of the image."""
    left = 1.0 - DIRECTIONS.index(direction) * 2.0 / 3.0
    half = math.tan(field_of_view / 2)
    return math.atan((left - 2.0 / 3.0) * half), math.atan(left * half)


@dataclass(frozen=True)
class TargetReading:
    """What the options of the target question mean, and how wide the camera sees.

    `meanings` has one entry per option: "absent", or a direction and a range as in "left near".
    `field_of_view` is horizontal [rad].
    """

    options: tuple[str, ...]
    meanings: tuple[str, ...]
    field_of_view: float

    def __post_init__(self) -> None:
        if len(self.options) != len(self.meanings):
            raise ValueError(
                f"{len(self.options)} target options but {len(self.meanings)} meanings, expected one meaning per option"
            )
        for meaning in self.meanings:
            if meaning not in MEANINGS:
                raise ValueError(f"the target meaning {meaning!r} is unknown, expected one of {list(MEANINGS)}")
        missing = [meaning for meaning in MEANINGS if meaning not in self.meanings]
        if missing:
            raise ValueError(f"no target option means {missing}, expected every one of {list(MEANINGS)}")
        if not 0.1 <= self.field_of_view <= 3.0:
            raise ValueError(f"the field of view is {self.field_of_view} rad, expected 0.1 to 3.0")

    def bearing_of(self, direction: str) -> float:
        """Return the bearing [rad, positive left] of the middle of a third of the image."""
        offset = (1 - DIRECTIONS.index(direction)) * 2.0 / 3.0
        return math.atan(offset * math.tan(self.field_of_view / 2))

    def _chances(self, answer: Answer) -> tuple[dict[str, float], dict[str, float]]:
        """Return the probability of every meaning, and of every direction; raises UnusableAnswerError."""
        check_answer("target", answer, self.options)
        chance = dict.fromkeys(self.meanings, 0.0)
        for meaning, probability in zip(self.meanings, answer.probabilities, strict=True):
            chance[meaning] += probability
        total = math.fsum(chance.values())
        chance = {meaning: probability / total for meaning, probability in chance.items()}
        return chance, {side: chance[f"{side} near"] + chance[f"{side} far"] for side in DIRECTIONS}

    def check_mirrored(self, answer: Answer, mirrored: Answer) -> None:
        """Raise UnusableAnswerError unless the answer about the mirrored image says the same, with the sides swapped.

        The two contradict each other as far as one sees the target and the other does not, or both see it on the left,
        or both on the right. A bit to the side is no contradiction to the center.
        """
        chance, sides = self._chances(answer)
        there, sides_there = self._chances(mirrored)
        contradiction = (
            chance[ABSENT] * (1.0 - there[ABSENT])
            + (1.0 - chance[ABSENT]) * there[ABSENT]
            + sides["left"] * sides_there["left"]
            + sides["right"] * sides_there["right"]
        )
        if contradiction > CONTRADICTION:
            raise UnusableAnswerError(
                f"it is {answer.value!r} about the image and {mirrored.value!r} about the mirrored one, which "
                "contradict each other"
            )

    def read(self, answer: Answer, stamp: float) -> Sighting:
        """Return the sighting in an image taken at `stamp` [s]; raises UnusableAnswerError."""
        chance, sides = self._chances(answer)
        visible = math.fsum(sides.values())
        near = math.fsum(chance[f"{side} near"] for side in DIRECTIONS)
        bearing = math.fsum(sides[side] * self.bearing_of(side) for side in DIRECTIONS)
        meaning = self.meanings[self.options.index(answer.value)]
        direction, distance = ("", "") if meaning == ABSENT else meaning.split()
        return Sighting(
            stamp=stamp,
            visible=min(1.0, visible),
            near=min(1.0, near / visible) if visible > 0.0 else 0.0,
            in_reach=chance["center near"],
            bearing=bearing / visible if visible > 0.0 else 0.0,
            direction=direction,
            range=distance,
            confidence=min(1.0, visible) if direction else chance[ABSENT],
            chances=tuple(chance[known] for known in MEANINGS),
        )


@dataclass(frozen=True)
class Surroundings:
    """What was ahead in the image taken at `stamp` [s], as probabilities in 0..1.

    `obstacle` and `wall` are close ahead, `passage` is a doorway or a corridor; `left`, `center`
    and `right` are ways that are clear, `none` says that there is no such way.
    """

    stamp: float
    obstacle: float
    wall: float
    passage: float
    left: float
    center: float
    right: float
    none: float

    @property
    def blocked(self) -> float:
        return min(1.0, self.obstacle + self.wall)


@dataclass(frozen=True)
class SurroundingsReading:
    """What the options of the label and the way question mean.

    `obstacles`, `walls` and `passages` are some of the labels; `ways` are the options for left, center, right and
    none, in this order.
    """

    labels: tuple[str, ...]
    obstacles: tuple[str, ...]
    walls: tuple[str, ...]
    passages: tuple[str, ...]
    ways: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("obstacles", "walls", "passages"):
            foreign = [label for label in getattr(self, name) if label not in self.labels]
            if foreign:
                raise ValueError(f"the {name} {foreign} are not among the labels {list(self.labels)}")
        if not self.obstacles and not self.walls:
            raise ValueError("no label means an obstacle or a wall, expected at least one: the robot would never stop")
        if len(self.ways) != 4:
            raise ValueError(f"the ways are {list(self.ways)}, expected the words for left, center, right and none")

    def read(self, label: Answer, way: Answer, stamp: float) -> Surroundings:
        """Return what was ahead in an image taken at `stamp` [s]; raises UnusableAnswerError."""
        check_answer("label", label, self.labels)
        check_answer("way", way, self.ways)
        left, center, right, none = (way.probability(option) for option in self.ways)
        return Surroundings(
            stamp=stamp,
            obstacle=_total(label, self.obstacles),
            wall=_total(label, self.walls),
            passage=_total(label, self.passages),
            left=left,
            center=center,
            right=right,
            none=none,
        )


def check_answer(name: str, answer: Answer, options: Sequence[str]) -> None:
    """Raise UnusableAnswerError unless the answer is a distribution over `options` and its value the best one."""

    def unusable(problem: str) -> UnusableAnswerError:
        return UnusableAnswerError(f"answer {name!r} {problem}")

    if tuple(answer.options) != tuple(options):
        raise unusable(f"has the options {list(answer.options)}, asked were {list(options)}")
    if len(answer.probabilities) != len(options):
        raise unusable(f"has {len(answer.probabilities)} probabilities for {len(options)} options")
    if not all(math.isfinite(p) and -1e-3 <= p <= 1.0 + 1e-3 for p in answer.probabilities):
        raise unusable(f"has probabilities that are not in 0..1: {list(answer.probabilities)}")
    total = math.fsum(answer.probabilities)
    if abs(total - 1.0) > 0.02:
        raise unusable(f"has probabilities that add up to {total:.3f}, expected 1")
    if answer.value not in options:
        raise unusable(f"is {answer.value!r:.100}, expected one of {list(options)}")
    if answer.probability(answer.value) < max(answer.probabilities) - 1e-3:
        raise unusable(f"contradicts itself: {answer.value!r} is not its most probable option")


def _total(answer: Answer, options: Sequence[str]) -> float:
    return min(1.0, max(0.0, math.fsum(answer.probability(option) for option in options)))
