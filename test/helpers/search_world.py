"""A robot without physics that searches with a map, and answers for it that a script gives."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from kinematic_room import FIELD_OF_VIEW, READ_SURROUNDINGS, READ_TARGET, answer

from vlm_perception.navigation.behaviours.base import Decision
from vlm_perception.navigation.depth import Points
from vlm_perception.navigation.motion import STOP, Command, Limits, Pose
from vlm_perception.navigation.pilot import Pilot
from vlm_perception.navigation.search_map import SearchMap
from vlm_perception.navigation.sighting import Sighting, Surroundings
from vlm_perception.navigation.tuning import Tuning

PERIOD = 0.05
BEGIN = 1000.0
"""The clock at the start [s]."""


def surroundings(label: str = "clear", way: str = "center", stamp: float = 0.0, sure: float = 0.95) -> Surroundings:
    label_answer = answer(READ_SURROUNDINGS.labels, label, sure)
    return READ_SURROUNDINGS.read(label_answer, answer(READ_SURROUNDINGS.ways, way, sure), stamp)


def sighting(target: str = "no", stamp: float = 0.0, sure: float = 0.95) -> Sighting:
    return READ_TARGET.read(answer(READ_TARGET.options, target, sure), stamp)


def search_map(field_of_view: float = FIELD_OF_VIEW) -> SearchMap:
    tuning = Tuning()
    return SearchMap(field_of_view, tuning.target_near, tuning.clear_distance, tuning.robot_width)


Seen = tuple[str, str, str]
"""What a model says of the target, of what is ahead, and which way is clear."""


class SearchRobot:
    """A pilot on a base that does as it is told, with right odometry and answers that take `delay` [s].

    `see` tells what the model says about an image taken at a pose, `depth` how far [m] the way is free there. There
    is no odometry while `has_odometry` is False. `decisions`, `poses` and `sent` have an entry for each step.
    """

    def __init__(
        self, see: Callable[[Pose], Seen], delay: float = 1.0, depth: Callable[[Pose], float] | None = None
    ) -> None:
        self.see, self.delay, self.depth = see, delay, depth
        self.pilot = Pilot(PERIOD, Tuning(), Limits(), max_answer_age=2.0)
        self.pilot.start("search", "ball", "a test")
        self.time = 0.0
        self.pose = Pose()
        self.has_odometry = self.answers_come = True
        self.asked: tuple[float, Pose] | None = None
        self.answered = 0
        self.newest = self.pose  # where the newest answered image was taken
        self.decisions: list[Decision] = []
        self.poses: list[Pose] = []
        self.sent: list[Command] = []

    @property
    def now(self) -> float:
        return BEGIN + self.time

    def step(self) -> Decision:
        pilot = self.pilot
        if self.has_odometry:
            pilot.odometry.add_odometry(self.now, self.pose)
        if self.depth is not None:
            ahead = np.full(5, self.depth(self.pose))
            pilot.see(pilot.depth_image, Points(self.now, ahead, 0.0 * ahead, 0.0 * ahead, enough=5), self.time)
        if self.asked and self.answers_come and self.time - self.asked[0] >= self.delay - 1e-9:
            taken, pose = self.asked
            target, label, way = self.see(pose)
            stamp = BEGIN + taken
            pilot.take(surroundings(label, way, stamp), sighting(target, stamp), self.now, self.time)
            self.asked, self.newest = None, pose
            self.answered += 1
        if not self.asked and pilot.wants_image(self.time):
            pilot.asked(self.now, self.time)
            self.asked = self.time, self.pose
        command = pilot.step(self.now, self.time) or STOP
        x, y = self.pose.ahead(command.forward * PERIOD, command.turn * PERIOD / 2)
        self.pose = Pose(x, y, self.pose.heading + command.turn * PERIOD)
        self.time += PERIOD
        self.decisions.append(pilot.decision)
        self.poses.append(self.pose)
        self.sent.append(command)
        return pilot.decision

    def run(self, seconds: float, until: Callable[[Decision], bool] = lambda decision: False) -> list[Decision]:
        """Go on for so long, or until a decision that is wanted or the end of the search; return the decisions."""
        decisions: list[Decision] = []
        for _ in range(round(seconds / PERIOD)):
            decisions.append(self.step())
            if until(decisions[-1]) or decisions[-1].found is not None:
                break
        return decisions


class Chamber:
    """A square of floor, `half` [m] from its middle to its walls, with a thing of a radius of 0.15 m at `target`.

    What the model means is what the nano model means by its definition: a wall is within 1 m of the robot's centre, an
    obstacle within 0.65 m, a clear way is clear for 1.5 m.
    """

    def __init__(self, half: float = 2.5, target: tuple[float, float] | None = None) -> None:
        self.half, self.target = half, target

    def __call__(self, pose: Pose) -> Seen:
        wall, thing = self.wall(pose), self.thing(pose)
        label = "obstacle" if thing < 0.65 else "wall" if wall < 1.0 else "clear"
        return self.where(pose), label, "center" if min(wall, thing) > 1.5 else "none"

    def where(self, pose: Pose) -> str:
        if self.target is None:
            return "no"
        bearing, far = pose.bearing_of(self.target), pose.distance_to(self.target)
        if abs(bearing) > FIELD_OF_VIEW / 2:
            return "no"
        across = math.tan(bearing) / math.tan(FIELD_OF_VIEW / 2)
        side = "left" if across > 1 / 3 else "right" if across < -1 / 3 else "center"
        return f"{side} {'near' if far < Tuning().target_near else 'far'}"

    def wall(self, pose: Pose) -> float:
        """Return how far [m] it is straight on to a wall."""
        c, s = math.cos(pose.heading), math.sin(pose.heading)
        ends = ((math.copysign(self.half, d) - p) / d for p, d in ((pose.x, c), (pose.y, s)) if abs(d) > 1e-9)
        return max(0.0, min(ends))

    def thing(self, pose: Pose) -> float:
        """Return how far [m] it is straight on to the thing, infinite if it is not in the way."""
        if self.target is None:
            return math.inf
        far, bearing = pose.distance_to(self.target), pose.bearing_of(self.target)
        if abs(far * math.sin(bearing)) >= 0.35 or math.cos(bearing) <= 0.0:
            return math.inf
        return max(0.0, far * math.cos(bearing) - 0.15)
