"""The simulator's rooms without physics and images: quick enough for hundreds of searches."""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from vlm_perception.navigation.answer_monitor import AnswerMonitor
from vlm_perception.navigation.behaviours.base import Behaviour, Decision, WorldState
from vlm_perception.navigation.motion import Command, Limits, MotionLimiter, Pose
from vlm_perception.navigation.sighting import Sighting, Surroundings, SurroundingsReading, TargetReading
from vlm_perception.questions import Answer
from vlm_perception.simulation import room as rooms
from vlm_perception.simulation import truth

FIELD_OF_VIEW = 1.312
READ_TARGET = TargetReading(truth.WHERE, ("absent", *truth.WHERE[1:]), FIELD_OF_VIEW)
READ_SURROUNDINGS = SurroundingsReading(
    labels=truth.LABELS,
    obstacles=("obstacle",),
    walls=("wall",),
    passages=("doorway", "corridor"),
    ways=truth.WAYS,
)


def answer(options: tuple[str, ...], value: str, sure: float = 0.92) -> Answer:
    """Return an answer that is `sure` of `value`."""
    rest = (1.0 - sure) / (len(options) - 1)
    return Answer(value, sure, options, tuple(sure if option == value else rest for option in options))


@dataclass
class KinematicRoom:
    """A room of the simulator and a robot that moves as it is told.

    A share `wrong` of the answers is drawn by lot. Answers come `delay` [s] late, give or take a half, and every
    `period` [s]; slow ones (over 0.9 s) one after another. They count for `max_answer_age` [s].
    """

    seed: int
    target: str = ""
    kind: str = "room"
    wrong: float = 0.0
    delay: float = 0.2
    period: float = 0.1
    max_answer_age: float = math.inf
    closest: float = math.inf
    ahead: float = math.inf
    time: float = 0.0
    decisions: list[Decision] = field(default_factory=list)
    path: list[Pose] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.room = rooms.make_room(self.seed, self.kind)
        self.pose = Pose(self.room.start.x, self.room.start.y, self.room.start.yaw)
        self.target = self.target or self.room.things[self.seed % len(self.room.things)].name

    @property
    def distance(self) -> float:
        """From the robot's centre to the target's surface [m]."""
        return self.room.thing(self.target).distance_to(self.pose.x, self.pose.y)

    def where(self) -> str:
        """The right answer to the target question, by the visible part of a circle that stands for the target."""
        target = self.room.thing(self.target)
        if target is None:
            return "no"
        eye = self.pose.ahead(rooms.ROBOT_RADIUS)
        far = math.hypot(target.x - eye[0], target.y - eye[1])
        middle = Pose(*eye, self.pose.heading).bearing_of((target.x, target.y))
        half = math.asin(min(1.0, target.radius / far))
        bearings = [b for b in np.linspace(middle - half, middle + half, 9)[1:-1] if abs(b) < FIELD_OF_VIEW / 2]
        seen = [bearing for bearing in bearings if not self.hidden(eye, bearing, far - target.radius, target)]
        if len(seen) < 3:
            return "no"
        across = math.tan(sum(seen) / len(seen)) / math.tan(FIELD_OF_VIEW / 2)
        side = "left" if across > 1 / 3 else "right" if across < -1 / 3 else "center"
        return f"{side} {'near' if self.distance < truth.CLOSE else 'far'}"

    def hidden(self, eye: tuple[float, float], bearing: float, far: float, target: rooms.Thing) -> bool:
        """Is something else on the ray from `eye`, nearer than `far` [m]?"""
        others = [thing for thing in self.room.things if thing is not target]
        angle = self.pose.heading + bearing
        c, s, x, y = math.cos(angle), math.sin(angle), np.array([eye[0]]), np.array([eye[1]])
        things = (float(truth._ray_thing(x, y, c, s, other)[0]) for other in others)
        return any(distance < far for distance in things) or truth._ray_walls(x, y, c, s, self.room).min() < far

    def truth(self) -> tuple[str, str, str]:
        """Return the right answers to the target, the label and the way question."""
        pose = rooms.RobotPose(self.pose.x, self.pose.y, self.pose.heading)
        return self.where(), truth.label(self.room, pose), truth.way(self.room, pose)

    def run(self, behaviour: Behaviour, time_limit: float, control_period: float = 0.05) -> Decision:
        """Drive until the behaviour is done or the time [s] is up; return its last decision."""
        draw = random.Random(self.seed + 1)
        limiter = MotionLimiter(Limits(), control_period)
        waiting: deque[tuple[float, float, Pose, Sighting, Surroundings]] = deque()
        answers = AnswerMonitor(self.max_answer_age)
        pose_then = self.pose
        asked = -math.inf
        while True:
            if self.time - asked >= max(self.period, 0.0) - 1e-9 and not (self.period > 0.9 and waiting):
                asked = self.time
                target, label, way = self.truth()
                if draw.random() < self.wrong:
                    target = draw.choice(truth.WHERE)
                if draw.random() < self.wrong:
                    label = draw.choice(READ_SURROUNDINGS.labels)
                if draw.random() < self.wrong:
                    way = draw.choice(READ_SURROUNDINGS.ways)
                sighting = READ_TARGET.read(answer(truth.WHERE, target), self.time)
                surroundings = READ_SURROUNDINGS.read(
                    answer(READ_SURROUNDINGS.labels, label),
                    answer(READ_SURROUNDINGS.ways, way),
                    self.time,
                )
                delay = self.delay * draw.uniform(0.5, 1.5)
                waiting.append((self.time + delay, self.time, self.pose, sighting, surroundings))
            while waiting and waiting[0][0] <= self.time:
                _, _, pose_then, sighting, surroundings = waiting.popleft()
                answers.add(surroundings, sighting, self.time, self.time)
            doubt = answers.doubt(self.time, self.time)
            world = WorldState(
                answers.surroundings, answers.sighting, self.pose, pose_then, answers.period, doubt=doubt
            )
            decision = behaviour.step(world, self.time)
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
        self.closest = min(self.closest, self.room.clearance(x, y))
        if command.forward > 0.0:
            nearest, _ = truth.swath(self.room, rooms.RobotPose(x, y, heading))
            self.ahead = min(self.ahead, nearest)
