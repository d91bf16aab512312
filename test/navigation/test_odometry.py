"""Odometry of every wrong kind: neither guard depends on its being right, and what does not count is named."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from kinematic_room import READ_SURROUNDINGS, READ_TARGET, answer

from vlm_perception.navigation.motion import STOP, Command, Limits, Pose
from vlm_perception.navigation.pilot import Pilot
from vlm_perception.navigation.tuning import Tuning

PERIOD = 0.05
BEFORE = 1000.0
"""The clock at the start [s]."""


def odometry(stamp: float, x: float, y: float, heading: float, **orientation: float) -> SimpleNamespace:
    """A nav_msgs/Odometry."""
    q = {"qx": 0.0, "qy": 0.0, "qz": math.sin(heading / 2), "qw": math.cos(heading / 2), **orientation}
    seconds = math.floor(stamp)
    time = SimpleNamespace(sec=seconds, nanosec=int((stamp - seconds) * 1e9))
    pose = SimpleNamespace(
        position=SimpleNamespace(x=x, y=y, z=0.0), orientation=SimpleNamespace(**{k[1]: v for k, v in q.items()})
    )
    return SimpleNamespace(header=SimpleNamespace(stamp=time), pose=SimpleNamespace(pose=pose))


Spoil = Callable[[int, float, Pose], SimpleNamespace | None]
"""From the number of a message, its time [s] and the true pose to what is sent."""
draw = random.Random(0)
KINDS: dict[str, tuple[str | None, Spoil]] = {
    # What is said about it (None: the robot hardly moves, so it is not found out), and what is sent.
    "good": ("", lambda n, t, p: odometry(t, p.x, p.y, p.heading)),
    "none": ("", lambda n, t, p: None),
    "in another frame": ("", lambda n, t, p: odometry(t, 7.0 - p.y, p.x - 3.0, p.heading + math.pi / 2)),
    "twice the same": ("", lambda n, t, p: odometry(t, p.x, p.y, p.heading)),
    "of a base that slips": ("", lambda n, t, p: odometry(t, 0.7 * p.x, 0.7 * p.y, 0.7 * p.heading)),
    "stuck at zero": ("base off", lambda n, t, p: odometry(t, 0.0, 0.0, 0.0)),
    "a tenth of the scale": ("base off", lambda n, t, p: odometry(t, p.x / 10, p.y / 10, p.heading / 10)),
    "backwards": ("base off", lambda n, t, p: odometry(t, -p.x, -p.y, -p.heading)),
    "ten times the scale": (None, lambda n, t, p: odometry(t, 10 * p.x, 10 * p.y, 10 * p.heading)),
    "in degrees": ("jumps", lambda n, t, p: odometry(t, 57.3 * p.x, 57.3 * p.y, math.degrees(p.heading))),
    "random": ("jumps", lambda n, t, p: odometry(t, draw.uniform(-5, 5), draw.uniform(-5, 5), draw.uniform(-3, 3))),
    "random and small": (
        "base off",
        lambda n, t, p: odometry(t, draw.uniform(-0.02, 0.02), 0, draw.uniform(-0.1, 0.1)),
    ),
    "two nodes 10 m apart": ("more than one node", lambda n, t, p: odometry(t, p.x + 10 * (n % 2), p.y, p.heading)),
    "two nodes in turns": ("more than one node", lambda n, t, p: odometry(t, p.x + 10 * (n // 9 % 2), p.y, p.heading)),
    "two nodes 0.3 m apart": ("more than one node", lambda n, t, p: odometry(t, p.x + 0.3 * (n % 2), p.y, p.heading)),
    "two nodes of two headings": ("more than one node", lambda n, t, p: odometry(t, p.x, p.y, p.heading + n % 2)),
    "too seldom": ("expected at most 0.5 s", lambda n, t, p: None if n % 16 else odometry(t, p.x, p.y, p.heading)),
    "repeating stamps": ("stamps repeat", lambda n, t, p: odometry(math.floor(t * 4) / 4, p.x, p.y, p.heading)),
    "one stamp": ("s old", lambda n, t, p: odometry(BEFORE, p.x, p.y, p.heading)),
    "stamps to and fro": ("stamps repeat", lambda n, t, p: odometry(t - 0.1 * (n % 2), p.x, p.y, p.heading)),
    "a second late": ("s old", lambda n, t, p: odometry(t - 1.0, p.x, p.y, p.heading)),
    "a second early": ("s old", lambda n, t, p: odometry(t + 1.0, p.x, p.y, p.heading)),
    "without orientation": ("norm 0", lambda n, t, p: odometry(t, p.x, p.y, 0.0, qz=0.0, qw=0.0)),
    "twice too long": ("norm 2", lambda n, t, p: odometry(t, p.x, p.y, 0.0, qz=2 * math.sin(p.heading / 2), qw=2.0)),
    "yaw written into z": ("norm", lambda n, t, p: odometry(t, p.x, p.y, 0.0, qz=p.heading % 0.8, qw=0.0)),
    "upside down": ("upside down", lambda n, t, p: odometry(t, p.x, p.y, 0.0, qx=1.0, qz=0.0, qw=0.0)),
    "no number": ("not finite", lambda n, t, p: odometry(t, math.nan, p.y, p.heading)),
    "no number as orientation": ("not finite", lambda n, t, p: odometry(t, p.x, p.y, 0.0, qw=math.nan)),
    "infinite": ("not finite", lambda n, t, p: odometry(t, p.x, math.inf, p.heading)),
    "huge": ("jumps", lambda n, t, p: odometry(t, 1e300 * (n % 2), p.y, p.heading)),
}


class Trip:
    """A pilot on a base that follows late, with odometry of a kind and one answer for ever.

    Answers come every `period` [s] and take `delay` [s]. Images freeze after `frozen` [s]. `driven` [m] and `turned`
    [rad] are what happened since then.
    """

    def __init__(
        self,
        kind: str,
        target: str,
        period: float = 0.1,
        frozen: float = math.inf,
        delay: float = 0.1,
        mode: str = "search",
    ) -> None:
        self.words, self.spoil = KINDS[kind]
        self.target, self.period, self.frozen, self.delay = target, period, frozen, delay
        self.pilot = Pilot(PERIOD, Tuning(), Limits(), max_answer_age=10.0 * period)
        self.pilot.start(mode, "ball", "a test")
        self.time = 0.0
        self.pose = Pose()
        self.speed = STOP
        self.driven = self.turned = self.beyond = 0.0
        self.said = ""

    def go(self, seconds: float) -> None:
        coming: list[tuple[float, float, Pose]] = []
        newest, asked = self.pose, -math.inf
        for n in range(round(seconds / PERIOD)):
            now = BEFORE + self.time
            if self.time - asked >= self.period - 1e-9:
                asked = self.time
                self.pilot.asked(now, self.time)
                coming.append((self.time + self.delay, self.time, self.pose))
            while coming and coming[0][0] <= self.time:
                _, taken, newest = coming.pop(0)
                self.answer(taken)
            if message := self.spoil(n, now, self.pose):
                self.pilot.odometry.take(message, now)
            command = self.pilot.step(now, self.time) or STOP
            assert command.is_finite
            self.move(command)
            self.beyond = max(self.beyond, self.pose.distance_to((newest.x, newest.y)))
            self.said += self.pilot.odometry.odometry_problem(now) or ""
            self.time += PERIOD

    def answer(self, taken: float) -> None:
        stamp = BEFORE + taken
        label = answer(READ_SURROUNDINGS.labels, "clear")
        surroundings = READ_SURROUNDINGS.read(label, answer(READ_SURROUNDINGS.ways, "center"), stamp)
        sighting = READ_TARGET.read(answer(READ_TARGET.options, self.target), stamp)
        unchanged = max(0.0, taken - self.frozen)
        self.pilot.take(surroundings, sighting, BEFORE + self.time, self.time, unchanged)

    def move(self, command: Command) -> None:
        """The base comes two thirds nearer to what it is told in each period."""
        forward = self.speed.forward + (command.forward - self.speed.forward) * 2 / 3
        turn = self.speed.turn + (command.turn - self.speed.turn) * 2 / 3
        self.speed = Command(forward, turn)
        x, y = self.pose.ahead(forward * PERIOD, turn * PERIOD / 2)
        self.pose = Pose(x, y, self.pose.heading + turn * PERIOD)
        if self.time > self.frozen:
            self.driven += abs(forward) * PERIOD
            self.turned += abs(turn) * PERIOD


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_camera_stops_the_robot_whatever_odometry_says(kind):
    # With odometry that is wrong the robot may stand just when the camera freezes.
    ahead = [Trip(kind, "center far", frozen=frozen) for frozen in (2.0, 3.0)]
    around = Trip(kind, "no", frozen=1.0)
    for trip in (*ahead, around):
        trip.go(trip.frozen + 3.0)
        assert trip.driven < 0.4
    assert around.pilot.answers.faults["frozen image"] and 0.05 < around.turned < 0.9
    moved = max(ahead, key=lambda trip: trip.driven)
    assert moved.pilot.answers.faults["frozen image"] and moved.driven > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_the_robot_never_drives_far_beyond_its_newest_image_whatever_odometry_says(kind):
    trip = Trip(kind, "center far", period=3.0)
    trip.go(13.0)
    assert 0.0 < trip.beyond < Tuning().blind_distance + 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_with_slow_answers_it_never_drives_beyond_what_an_image_showed_free_whatever_odometry_says(kind):
    trip = Trip(kind, "center far", period=1.5, delay=1.4)
    trip.go(12.0)
    known = Tuning().clear_distance - Tuning().robot_width / 2
    counted = trip.pilot.odometry.has_odometry(BEFORE + trip.time - PERIOD)
    found_out = trip.words == "base off"  # by then it has driven
    limit = known if counted or found_out else Tuning().blind_distance
    assert 0.0 < trip.beyond < limit + 0.05


@pytest.mark.parametrize("kind", [kind for kind, (words, _) in KINDS.items() if words is not None])
def test_odometry_counts_as_long_as_it_can_be_and_if_not_it_is_said_why(kind):
    trip = Trip(kind, "left near", mode="follow")  # which turns to the left for ever
    trip.go(3.0)
    before, heading = trip.pilot.odometry.pose.heading, trip.pose.heading
    trip.go(3.0)
    now = BEFORE + trip.time - PERIOD
    assert trip.pilot.odometry.has_odometry(now) == (not trip.words and kind != "none")
    assert trip.words in trip.said if trip.words else not trip.said
    turned = trip.pose.heading - heading
    assert trip.pilot.odometry.pose.heading - before == pytest.approx(turned, rel=0.4, abs=0.3) and turned > 1.0
