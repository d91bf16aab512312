"""A room of circles in pure Python, quick enough for hundreds of searches: for the tests of the behaviours only."""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field

from vlm_perception.navigation.behaviours import Behaviour, Decision, View
from vlm_perception.navigation.motion import Command, Limits, MotionLimiter, Pose, wrap
from vlm_perception.navigation.sighting import Sighting, Surroundings, SurroundingsReading, TargetReading
from vlm_perception.questions import Answer

ROBOT_RADIUS = 0.17
FIELD_OF_VIEW = 1.312
NEAR = 0.65
WALL_AHEAD = 1.0

TARGET_OPTIONS = ("no", "left near", "left far", "center near", "center far", "right near", "right far")
READ_TARGET = TargetReading(TARGET_OPTIONS, ("absent", *TARGET_OPTIONS[1:]), FIELD_OF_VIEW)
READ_SURROUNDINGS = SurroundingsReading(
    labels=("clear", "obstacle", "wall", "doorway", "corridor"),
    obstacles=("obstacle",),
    walls=("wall",),
    passages=("doorway", "corridor"),
    ways=("left", "center", "right", "none"),
)


def answer(name: str, options: tuple[str, ...], value: str, sure: float = 0.92) -> Answer:
    rest = (1.0 - sure) / (len(options) - 1)
    return Answer(name, value, sure, options, tuple(sure if option == value else rest for option in options))


@dataclass
class Thing:
    name: str
    x: float
    y: float
    radius: float


@dataclass
class KinematicRoom:
    """A rectangle from (0, 0) to (width, depth) [m], things, and a robot that obeys every command at once."""

    width: float
    depth: float
    things: list[Thing]
    pose: Pose
    target: str
    wrong: float = 0.0
    delay: float = 0.2
    period: float = 0.1
    seed: int = 0
    closest: float = math.inf
    time: float = 0.0
    decisions: list[Decision] = field(default_factory=list)
    path: list[Pose] = field(default_factory=list)

    @classmethod
    def random(cls, seed: int, **how: float) -> KinematicRoom:
        draw = random.Random(seed)
        width, depth = draw.uniform(3.5, 6.0), draw.uniform(3.5, 6.0)
        things: list[Thing] = []
        robot = (draw.uniform(0.6, width - 0.6), draw.uniform(0.6, depth - 0.6))
        while len(things) < draw.randint(5, 8):
            radius = draw.uniform(0.12, 0.25)
            x, y = draw.uniform(radius + 0.1, width - radius - 0.1), draw.uniform(radius + 0.1, depth - radius - 0.1)
            if math.hypot(x - robot[0], y - robot[1]) < radius + 0.6:
                continue
            if all(math.hypot(x - t.x, y - t.y) > radius + t.radius + 0.5 for t in things):
                things.append(Thing(f"thing {len(things)}", x, y, radius))
        pose = Pose(*robot, draw.uniform(-math.pi, math.pi))
        return cls(width, depth, things, pose, "thing 0", seed=seed, **how)

    def clearance(self, thing: Thing) -> float:
        """Distance [m] from the robot's centre to a thing's surface."""
        return self.pose.distance_to((thing.x, thing.y)) - thing.radius

    def is_visible(self, thing: Thing) -> bool:
        bearing = self.pose.bearing_of((thing.x, thing.y))
        if abs(bearing) > FIELD_OF_VIEW / 2:
            return False
        distance = self.pose.distance_to((thing.x, thing.y))
        for other in self.things:
            away = self.pose.distance_to((other.x, other.y))
            if other is not thing and away < distance:
                offset = wrap(self.pose.bearing_of((other.x, other.y)) - bearing)
                if abs(math.tan(offset)) * away < other.radius:
                    return False
        return True

    def is_blocked(self, angle: float) -> bool:
        """Is something within 0.65 m, or a wall within 1 m, when heading `angle` [rad] away from ahead?"""
        cos, sin = math.cos(self.pose.heading + angle), math.sin(self.pose.heading + angle)
        x, y = self.pose.x + WALL_AHEAD * cos, self.pose.y + WALL_AHEAD * sin
        return self.thing_ahead(angle) or not (0 < x < self.width and 0 < y < self.depth)

    def thing_ahead(self, angle: float = 0.0) -> bool:
        for thing in self.things:
            bearing = wrap(self.pose.bearing_of((thing.x, thing.y)) - angle)
            in_swath = (
                abs(bearing) < 1.5
                and abs(math.sin(bearing) * self.pose.distance_to((thing.x, thing.y)))
                < thing.radius + ROBOT_RADIUS + 0.05
            )
            if in_swath and self.clearance(thing) < NEAR:
                return True
        return False

    def truth(self) -> tuple[str, str, str]:
        """Return the right answers to the target, label and way questions."""
        target = "no"
        for thing in self.things:
            if thing.name == self.target and self.is_visible(thing):
                across = math.tan(self.pose.bearing_of((thing.x, thing.y))) / math.tan(FIELD_OF_VIEW / 2)
                side = "left" if across > 1 / 3 else "right" if across < -1 / 3 else "center"
                target = f"{side} {'near' if self.clearance(thing) < NEAR else 'far'}"
        label = "obstacle" if self.thing_ahead() else "wall" if self.is_blocked(0.0) else "clear"
        ways = [way for way, angle in (("center", 0.0), ("left", 0.52), ("right", -0.52)) if not self.is_blocked(angle)]
        return target, label, ways[0] if ways else "none"

    def run(self, behaviour: Behaviour, time_limit: float, control_period: float = 0.05) -> Decision:
        """Drive until the behaviour is done or the time [s] is up; return its last decision."""
        draw = random.Random(self.seed + 1)
        limiter = MotionLimiter(Limits(), control_period)
        waiting: deque[tuple[float, float, Pose, Sighting, Surroundings]] = deque()
        newest: tuple[float, Pose, Sighting, Surroundings] | None = None
        asked = -math.inf
        view = View(doubt="there is no answer yet")
        while True:
            if self.time - asked >= max(self.period, 0.0) - 1e-9 and not (self.period > 0.9 and waiting):
                asked = self.time
                target, label, way = self.truth()
                if draw.random() < self.wrong:
                    target = draw.choice(TARGET_OPTIONS)
                if draw.random() < self.wrong:
                    label = draw.choice(READ_SURROUNDINGS.labels)
                if draw.random() < self.wrong:
                    way = draw.choice(READ_SURROUNDINGS.ways)
                sighting = READ_TARGET.read(answer("target", TARGET_OPTIONS, target), self.time)
                surroundings = READ_SURROUNDINGS.read(
                    answer("label", READ_SURROUNDINGS.labels, label),
                    answer("way", READ_SURROUNDINGS.ways, way),
                    self.time,
                )
                delay = self.delay * draw.uniform(0.5, 1.5)
                waiting.append((self.time + delay, self.time, self.pose, sighting, surroundings))
            while waiting and waiting[0][0] <= self.time:
                newest = waiting.popleft()[1:]
            if newest:
                view = View(newest[3], newest[2], self.pose, newest[1], max(self.period, self.delay))
            decision = behaviour.step(view, self.time)
            self.decisions.append(decision)
            if decision.found is not None or self.time >= time_limit:
                return decision
            self.move(limiter.step(decision.command) or Command(), control_period)

    def move(self, command: Command, duration: float) -> None:
        heading = self.pose.heading + command.turn * duration
        x, y = self.pose.ahead(command.forward * duration, command.turn * duration / 2)
        self.pose = Pose(x, y, heading)
        self.path.append(self.pose)
        self.time += duration
        walls = min(x, y, self.width - x, self.depth - y)
        self.closest = min(self.closest, walls, *(self.clearance(thing) for thing in self.things))
