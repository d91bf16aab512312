"""One search in one room: what is wanted, what was recorded of it, and what it came to. No ROS."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import numpy as np

from vlm_perception.navigation.behaviours.base import ARRIVED
from vlm_perception.navigation.map_view import GridView
from vlm_perception.navigation.sighting import check_target
from vlm_perception.simulation.room import NAMES, Room
from vlm_perception.text import without_numbers

FOUND_WITHIN = 1.0  # [m] from the robot's centre to the nearest point of the target
AT_REST = 1.0  # [s] after the arrival the wheels are at rest, and it is measured where the robot is
NOT_FOUND = "not_found"
"""The state of a controller that has searched everything in vain."""
PRESENT, ABSENT = "present", "absent"


@dataclass(frozen=True)
class Episode:
    """What came of a search. Distances are in [m], times in [s] since the target was set, places (x, y) in [m].

    It ends with `arrived`, with `gave_up` (the controller says that the target is not there), or with the time limit,
    after so many `seconds`. `distance` ends at the target's nearest point and is None for a target that is not in the
    room; `driven` is how far the robot went, by ground truth. `image_ages` are those of the answers at their arrival,
    `states` are the changes of (time, state, reason).
    """

    seed: int
    target: str
    arrived: bool
    gave_up: bool
    found: bool
    seconds: float
    distance: float | None
    driven: float
    collisions: int
    path: list[tuple[float, float]]
    collided_at: list[tuple[float, float]]
    states: list[tuple[float, str, str]]
    image_ages: list[float]
    belief: GridView | None = field(default=None, repr=False, compare=False)
    """Where the target may be in the end, in the room's frame, if the controller has a map."""

    def in_figures(self) -> dict[str, object]:
        """Return what goes into a file: all but the belief."""
        return {name: value for name, value in asdict(replace(self, belief=None)).items() if name != "belief"}


def choose_target(wish: str, room: Room) -> str:
    """Return `wish`, or for "present" and "absent" a thing that is, or is not, in `room`, by its seed.

    Raises ValueError for what cannot be a target.
    """
    wish = check_target(wish)
    there = [thing.name for thing in room.things]
    rng = np.random.default_rng((room.seed, 7))
    if wish == PRESENT:
        return str(rng.choice(there))
    if wish == ABSENT:
        return str(rng.choice([name for name in NAMES if name not in there]))
    return wish


class State(NamedTuple):
    """What a controller said that it does, `at` a time [s, on the clock of the recorder]."""

    at: float
    target: str
    state: str
    reason: str


@dataclass
class EpisodeRecord:
    """What was seen and heard since the robot was put into its room; `ages` are those of the answers [s]."""

    pose: tuple[float, float] | None = None
    path: list[tuple[float, float]] = field(default_factory=list)
    driven: float = 0.0
    collisions: int = 0
    collided_at: list[tuple[float, float]] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)

    @property
    def state(self) -> State | None:
        """What the controller does now."""
        return self.states[-1] if self.states else None

    def see_robot(self, x: float, y: float, collisions: int) -> None:
        """Take where the robot is [m], and how often it touched something."""
        self.pose = (x, y)
        if not self.path or math.dist(self.path[-1], self.pose) > 0.02:
            self.driven += math.dist(self.path[-1], self.pose) if self.path else 0.0
            self.path.append(self.pose)
        if collisions > self.collisions:
            self.collided_at.append(self.pose)
        self.collisions = collisions

    def hear(self, at: float, target: str, state: str, reason: str) -> None:
        """Take what the controller does `at` a time [s]; more than a number in its reason must have changed."""
        last = self.state
        if last is None or (last[1:3], without_numbers(last.reason)) != ((target, state), without_numbers(reason)):
            self.states.append(State(at, target, state, reason))

    def end_of(self, target: str) -> State | None:
        """Return with what the search for `target` has ended, None while it goes on."""
        ends = (state for state in self.states if state.target == target and state.state in (ARRIVED, NOT_FOUND))
        return next(ends, None)

    def episode(self, room: Room, target: str, began: float, ended: float) -> Episode:
        """Return what came of the search for `target`, which `began` and `ended` at these times [s]."""
        thing, end = room.thing(target), self.end_of(target)
        arrived = end is not None and end.state == ARRIVED
        distance = thing.distance_to(*self.pose) if thing and self.pose else None
        return Episode(
            seed=room.seed,
            target=target,
            arrived=arrived,
            gave_up=end is not None and not arrived,
            found=arrived and distance is not None and distance <= FOUND_WITHIN,
            seconds=(end.at if end else ended) - began,
            distance=distance,
            driven=self.driven,
            collisions=self.collisions,
            path=list(self.path),
            collided_at=list(self.collided_at),
            states=[(at - began, state, reason) for at, of, state, reason in self.states if of == target],
            image_ages=list(self.ages),
        )
