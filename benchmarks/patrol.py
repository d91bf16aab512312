"""Patrols of a robot through simulated rooms: its pose, `RATE` times a second."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from vlm_perception.simulation.room import ROBOT_RADIUS, RobotPose, Room

RATE = 10
"""Poses per second."""
FORWARD, TURN, STOP = 0.3, 0.8, 8.0
"""Speed of driving [m/s] and of turning [rad/s], and time at a place [s]."""
ASIDE = 0.03
"""Standard deviation of the distance between the ways there and back [m]."""

Step = tuple[str, RobotPose]
"""What the robot does ("turning", "driving" or "standing") and its pose."""


def to_and_fro(room: Room, seconds: float) -> Iterator[Step]:
    """Go back and forth between four places in `room`, and stand at each."""
    rng = np.random.default_rng((room.seed, 3))
    places = [(room.start.x, room.start.y)]
    for _ in range(3):
        places.append(_free_place(room, *places[-1], rng, (1.0, 3.0), 4 * ASIDE))

    def moves() -> Iterator[Step]:
        pose = room.start
        for x, y in itertools.cycle(places[1:] + places[-2::-1]):
            x, y = x + rng.normal(0, ASIDE), y + rng.normal(0, ASIDE)
            for step in _go_to(pose, x, y):
                yield step
            pose = RobotPose(x, y, step[1].yaw)
            yield from [("standing", pose)] * round(STOP * RATE)

    return itertools.islice(moves(), round(seconds * RATE))


def wander(room: Room, seconds: float) -> Iterator[Step]:
    """Drive from one random place to the next in `room`, also through its door."""
    rng = np.random.default_rng((room.seed, 3))

    def moves() -> Iterator[Step]:
        pose = room.start
        while True:
            for step in _go_to(pose, *_free_place(room, pose.x, pose.y, rng, (0.5, 4.0), 0.02, through_door=True)):
                yield step
            pose = step[1]

    return itertools.islice(moves(), round(seconds * RATE))


def _go_to(pose: RobotPose, x: float, y: float) -> Iterable[Step]:
    """Turn to a place and drive there."""
    yaw = math.atan2(y - pose.y, x - pose.x)
    turn, distance = math.remainder(yaw - pose.yaw, math.tau), math.hypot(x - pose.x, y - pose.y)
    turns, drives = math.ceil(abs(turn) / TURN * RATE), math.ceil(distance / FORWARD * RATE)
    for n in range(turns):
        yield "turning", replace(pose, yaw=pose.yaw + turn * (n + 1) / turns)
    for n in range(drives):
        way = (n + 1) / drives
        yield "driving", RobotPose(pose.x + (x - pose.x) * way, pose.y + (y - pose.y) * way, yaw)


def _free_place(
    room: Room,
    x: float,
    y: float,
    rng: np.random.Generator,
    distances: tuple[float, float],
    clearance: float,
    through_door: bool = False,
) -> tuple[float, float]:
    """Return a place within `distances` [m] to which the straight way is free, with `clearance` [m] to spare."""
    while True:
        distance, angle = rng.uniform(*distances), rng.uniform(-math.pi, math.pi)
        dx, dy = distance * math.cos(angle), distance * math.sin(angle)
        way = [(x + dx * part, y + dy * part) for part in np.linspace(0, 1, math.ceil(distance / 0.05))]
        inside = all(room.plan.in_chamber(x, y) or (through_door and room.plan.in_passage(x, y)) for x, y in way)
        if inside and all(room.clearance(x, y) > ROBOT_RADIUS + clearance for x, y in way):
            return way[-1]
