"""Properties of the whole law of motion: whatever happens, and in whatever order, no unsafe command leaves it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinematic_room import READ_SURROUNDINGS, READ_TARGET

from vlm_perception.navigation.depth import DepthReading, Points, UnusableDepthError
from vlm_perception.navigation.motion import STOP, Command, Limits, MotionLimiter, Pose
from vlm_perception.navigation.pilot import MODES, Pilot
from vlm_perception.navigation.sighting import Surroundings, UnusableAnswerError
from vlm_perception.navigation.tuning import Tuning
from vlm_perception.questions import Answer

READ_DEPTH = DepthReading(1.31, camera_height=0.3, camera_pitch=0.1)
OTHERS = ("garbage", "failure", "odometry", "message", "start", "jump", "no depth", "pause", "nothing")
PERIOD = 0.05
MAX_AGE = 0.8
LIMITS = Limits(forward_speed=0.3, turn_speed=0.8)

anything = st.floats(allow_nan=True, allow_infinity=True)
"""Any number that a message can carry."""


def answer_to(options: tuple[str, ...], weights: list[float]) -> Answer:
    """The distribution of these weights, which may be none at all."""
    total = sum(weights)
    chances = tuple(weight / total for weight in weights) if 0.0 < total < math.inf else tuple(weights)
    best = max(range(len(options)), key=lambda i: chances[i])
    return Answer(options[best], chances[best], options, chances)


def distributions(options: tuple[str, ...]) -> st.SearchStrategy[list[float]]:
    """Weights of the options: sure of one of them, or anything."""
    sure = st.integers(0, len(options) - 1).map(lambda i: [1.0 if i == j else 0.01 for j in range(len(options))])
    return sure | st.lists(st.floats(0.0, 1.0), min_size=len(options), max_size=len(options))


@dataclass(frozen=True)
class Event:
    """One thing that happens, and for how long [s] nothing else does. Answers are repeated at 10 Hz."""

    what: str
    target: list[float]
    label: list[float]
    way: list[float]
    age: float
    mode: str
    measured: Pose
    jump: float
    free: float
    lasts: float
    message: SimpleNamespace


number = anything | st.sampled_from([0.0, 1.0, -1.0, 0.1, 3.0, 10.0, math.pi, -math.pi, 0.02])
whole = st.sampled_from([0, 1, 3, 4, 8, 32, 2**32 - 1])
stamps = st.sampled_from([0, -1, 999, 1000, 1000, 1001, 2**31 - 1])


def fields(**strategies: st.SearchStrategy) -> st.SearchStrategy[SimpleNamespace]:
    return st.builds(SimpleNamespace, **strategies)


header = fields(stamp=fields(sec=stamps, nanosec=st.integers(0, 10**9 - 1)))
scans = fields(
    header=header,
    ranges=st.lists(number, max_size=40),
    **{name: number for name in ("angle_min", "angle_max", "angle_increment", "range_min", "range_max")},
)
plain_scans = st.builds(
    lambda ranges, far, header: SimpleNamespace(
        header=header,
        ranges=ranges,
        angle_min=-1.0,
        angle_max=1.0,
        angle_increment=2.0 / (len(ranges) - 1),
        range_min=0.1,
        range_max=far,
    ),
    st.lists(number, min_size=20, max_size=40),
    number,
    header,
)
depth_images = fields(
    header=header,
    height=whole,
    width=whole,
    step=whole,
    is_bigendian=whole,
    encoding=st.sampled_from(["32FC1", "16UC1", "mono16", "rgb8", ""]),
    data=st.binary(max_size=64) | st.just(b"\xff" * 128) | st.just(bytes(128)),
)
odometries = fields(
    header=header,
    pose=fields(
        pose=fields(
            position=fields(x=number, y=number),
            orientation=fields(x=number, y=number, z=number, w=number),
        )
    ),
)

events = st.builds(
    Event,
    # Mostly good answers, or the robot would never move.
    what=st.sampled_from([*["answers"] * 14, *OTHERS]),
    target=distributions(READ_TARGET.options),
    label=distributions(READ_SURROUNDINGS.labels),
    way=distributions(READ_SURROUNDINGS.ways),
    age=st.sampled_from([0.0, 0.1, 0.1, 0.1, 0.5]) | st.floats(-2.0, 2.0),
    mode=st.sampled_from(MODES),
    measured=st.builds(Pose, anything, anything, anything) | st.builds(Pose, *[st.floats(-3.0, 3.0)] * 3),
    jump=st.floats(-100.0, 100.0),
    free=st.sampled_from([0.0, 0.3, 0.5, 2.0, math.inf]),
    lasts=st.sampled_from([0.1, 0.3, 1.0, 3.0]),
    message=scans | plain_scans | depth_images | odometries,
)


class Journey:
    """A pilot to which things happen; `log` has every command sent, and `check` what must hold of each.

    With depth, each event puts a thing straight ahead of where the robot is then.
    """

    def __init__(self, mode: str = "search", with_depth: bool = False) -> None:
        self.with_depth = with_depth
        self.thing: tuple[float, float] | None = None  # where depth saw something, while depth is fresh
        self.watched_since = math.inf
        self.pilot = Pilot(PERIOD, Tuning(), LIMITS, MAX_AGE)
        self.pilot.start(mode, "ball", "a test")
        self.now, self.steady = 1000.0, 0.0
        self.newest = -math.inf  # stamp of the newest image that the pilot may believe
        self.arrived = -math.inf
        self.log: list[Command | None] = []

    def happen(self, event: Event) -> None:
        if event.what == "garbage":
            self.answer([math.nan, *event.target[1:]], event.label, [*event.way[:-1], -1.0], self.now)
        elif event.what == "failure":
            self.pilot.fail("failure", "the classifier says no")
            self.newest = -math.inf
        elif event.what == "odometry":
            self.pilot.odometry.add_odometry(self.now, event.measured)
        elif event.what == "message":
            self.hear(event.message)
        elif event.what == "start":
            self.pilot.start(event.mode, "ball", "the test says so")
            self.newest = -math.inf
            self.watched_since = math.inf
        elif event.what == "jump":
            self.now += event.jump
        for step in range(round(event.lasts / PERIOD)):
            if event.what == "answers" and step % 2 == 0:
                self.answer(event.target, event.label, event.way, self.now - event.age)
            if self.with_depth and event.what not in ("no depth", "pause") and step % 2 == 0:
                self.see(event.free)
            self.step(clock_runs=event.what != "pause")

    def hear(self, message: SimpleNamespace) -> None:
        """Do what the node does with a message of odometry or depth."""
        if hasattr(message, "pose"):
            self.pilot.odometry.take(message, self.now)
            return
        is_scan = hasattr(message, "ranges")
        sensor = self.pilot.laser_scan if is_scan else self.pilot.depth_image
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        try:
            points = (READ_DEPTH.read_scan if is_scan else READ_DEPTH.read_image)(message, stamp)
        except UnusableDepthError:
            sensor.fail("it is a test")
            assert self.pilot.doubt(self.now, self.steady)
            return
        self.pilot.see(sensor, points, self.steady)
        self.thing = None  # it sees something else

    def see(self, free: float) -> None:
        ahead = np.full(5, free) if math.isfinite(free) else np.zeros(0)
        points = Points(self.now, ahead, 0.0 * ahead, 0.0 * ahead, enough=5)
        self.pilot.see(self.pilot.depth_image, points, self.steady)
        self.thing = self.pilot.odometry.at(self.now).ahead(free) if math.isfinite(free) else None

    def answer(self, target: list[float], label: list[float], way: list[float], stamp: float) -> None:
        """Do what the node does with the classifier's answers."""
        try:
            surroundings = READ_SURROUNDINGS.read(
                answer_to(READ_SURROUNDINGS.labels, label),
                answer_to(READ_SURROUNDINGS.ways, way),
                stamp,
            )
            sighting = READ_TARGET.read(answer_to(READ_TARGET.options, target), stamp)
        except UnusableAnswerError as error:
            self.pilot.fail("unusable answer", str(error))
            self.newest = -math.inf
            return
        if self.pilot.take(surroundings, sighting if self.pilot.mode != "explore" else None, self.now, self.steady):
            self.newest, self.arrived = stamp, self.steady

    def step(self, clock_runs: bool = True) -> None:
        self.now += PERIOD * clock_runs
        self.steady += PERIOD
        before = self.pilot.sent
        command = self.pilot.step(self.now, self.steady)
        self.log.append(command)
        self.check(before, command)

    def check(self, before: Command, command: Command | None) -> None:
        pilot, sent = self.pilot, command or STOP
        assert sent == pilot.sent, "silence is only for a robot that stands"
        assert sent.is_finite
        assert abs(sent.forward) <= LIMITS.forward_speed and abs(sent.turn) <= LIMITS.turn_speed
        if sent != STOP:
            assert pilot.mode != "idle" and pilot.decision.found is None
            assert -0.1 - 1e-9 <= self.now - self.newest <= MAX_AGE + 1e-9, "moved on an image that is not fresh"
            assert self.steady - self.arrived <= MAX_AGE + 1e-9, "moved on an answer that is not fresh"
            assert abs(sent.forward) - abs(before.forward) <= LIMITS.forward_acceleration * PERIOD + 1e-9
            if pilot.free is None:  # before what is too close it brakes at once
                assert abs(sent.forward - before.forward) <= LIMITS.braking * PERIOD + 1e-9
            assert abs(sent.turn) - abs(before.turn) <= LIMITS.turn_acceleration * PERIOD + 1e-9
            assert abs(sent.turn - before.turn) <= 2.0 * LIMITS.turn_acceleration * PERIOD + 1e-9
        assert sent == STOP or not pilot.doubt(self.now, self.steady), "moved in doubt"
        assert pilot.decision.reason and pilot.decision.state
        fresh = pilot.free is not None
        if fresh:
            self.watched_since = min(self.watched_since, self.steady)
        if sent != STOP:
            assert fresh or self.watched_since == math.inf, "moved on without the depth that it drove with"
        if sent.forward > 0.0 and fresh and self.thing:
            pose = pilot.odometry.pose
            distance, bearing = pose.distance_to(self.thing), pose.bearing_of(self.thing)
            ahead, left = distance * math.cos(bearing), distance * math.sin(bearing)
            in_the_way = ahead >= 0.0 and abs(left) < Tuning().robot_width / 2 - 1e-6
            assert not in_the_way or ahead >= Tuning().stop_distance, "drove on towards what is too close"


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(MODES), st.booleans(), st.lists(events, min_size=5, max_size=40))
def test_no_unsafe_command_whatever_happens_and_the_same_again(mode, with_depth, happenings):
    journeys = Journey(mode, with_depth), Journey(mode, with_depth)
    for journey in journeys:
        for event in happenings:
            journey.happen(event)
    assert journeys[0].log == journeys[1].log


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["left", "right"]),
    st.sampled_from(["near", "far"]),
    st.floats(0.75, 1.0),
    distributions(READ_SURROUNDINGS.labels).filter(any),
    st.sampled_from(["search", "follow"]),
)
def test_a_target_on_the_left_turns_the_robot_left_whatever_else_is_there(side, distance, sure, label, mode):
    journey = Journey(mode)
    rest = (1.0 - sure) / (len(READ_TARGET.options) - 1)
    target = [sure if option == f"{side} {distance}" else rest for option in READ_TARGET.options]
    for _ in range(12):
        journey.answer(target, label, [0.25] * 4, journey.now)
        journey.step()
        journey.step()
        turn = journey.pilot.sent.turn
        assert turn >= 0.0 if side == "left" else turn <= 0.0
        if journey.pilot.decision.state == "aligning" and turn:
            surroundings = journey.pilot.answers.surroundings
            assert journey.pilot.sent.forward == 0.0 or surroundings.blocked <= 0.5
            return
    pytest.fail(f"the robot did not turn: {journey.pilot.decision}")


@settings(max_examples=300, deadline=None)
@given(
    st.builds(Limits, *[st.floats(1e-3, 1e3)] * 5),
    st.floats(0.01, 0.2),
    st.lists(st.none() | st.builds(Command, anything, anything), max_size=50),
)
def test_the_limiter_keeps_any_limits_against_any_wish(limits, period, wishes):
    limiter = MotionLimiter(limits, period)
    before = STOP
    for wish in wishes:
        sent = limiter.step(wish) or STOP
        assert sent.is_finite
        assert abs(sent.forward) <= limits.forward_speed and abs(sent.turn) <= limits.turn_speed
        if wish is None or not wish.is_finite:
            assert sent == STOP
        else:
            rise, fall = limits.forward_acceleration * period, limits.braking * period
            assert abs(sent.forward) - abs(before.forward) <= rise * (1 + 1e-9) + 1e-9
            assert abs(sent.forward - before.forward) <= max(rise, fall) * (1 + 1e-9) + 1e-9
            assert abs(sent.turn - before.turn) <= 2 * limits.turn_acceleration * period * (1 + 1e-9) + 1e-9
            assert sent.forward * before.forward >= 0.0 and sent.turn * before.turn >= 0.0, "reversed without a stop"
            for now, then, wanted in (
                (sent.forward, before.forward, wish.forward),
                (sent.turn, before.turn, wish.turn),
            ):
                assert now * wanted >= 0.0 or abs(now) < abs(then), "goes the other way than wanted"
        before = sent


def journey_to_a_far_target(free: float | None, seconds: float = 2.0, mode: str = "search") -> Journey:
    journey = Journey(mode)
    for step in range(round(seconds / PERIOD)):
        if free is not None:
            journey.see(free)
        if step % 2 == 0:
            far = [1.0 if option == "center far" else 0.01 for option in READ_TARGET.options]
            clear = [1.0 if label == "clear" else 0.01 for label in READ_SURROUNDINGS.labels]
            journey.answer(far, clear, [0.1, 1.0, 0.1, 0.1], journey.now)
        journey.step()
    return journey


def test_depth_slows_down_before_it_stops_the_robot():
    speeds = [journey_to_a_far_target(free).pilot.sent.forward for free in (2.0, 0.45, 0.36, 0.34)]
    assert speeds[0] > 0.25 and 0.1 < speeds[1] <= 0.2 + 1e-9 and 0.0 < speeds[2] <= 0.02 + 1e-9 and speeds[3] == 0.0


def test_what_is_too_close_but_unseen_by_the_model_is_gone_around():
    journey = journey_to_a_far_target(2.0)
    assert journey.pilot.decision.state == "approaching"
    states = set()
    for _ in range(100):
        journey.see(0.3)
        far = [1.0 if option == "center far" else 0.01 for option in READ_TARGET.options]
        journey.answer(far, [1.0, 0.01, 0.01, 0.01, 0.01], [1.0, 0.1, 0.1, 0.1], journey.now)
        journey.step()
        states.add(journey.pilot.decision.state)
        assert journey.pilot.sent.forward <= 0.0
    assert "detouring" in states


def test_depth_that_ends_stops_the_robot_until_it_is_told_to_go_on_without():
    journey = journey_to_a_far_target(2.0)
    far = [1.0 if option == "center far" else 0.01 for option in READ_TARGET.options]

    def drive_on_without() -> Command:
        for _ in range(20):
            journey.answer(far, [1.0, 0.01, 0.01, 0.01, 0.01], [0.1, 1.0, 0.1, 0.1], journey.now)
            journey.step()
        return journey.pilot.sent

    assert drive_on_without() == STOP and "depth image was in use" in journey.pilot.decision.reason
    journey.pilot.start("search", "ball", "told again")
    journey.watched_since = math.inf
    assert drive_on_without().forward > 0.1


@pytest.mark.parametrize("jump", [-3600.0, -5.0, 5.0, 3600.0])
@pytest.mark.parametrize("state", ["lost", "all sides"])
def test_a_clock_that_jumps_makes_no_wait_longer_and_ends_no_search(jump, state):
    """The longest wait is 3 s, and the limit of the search a minute, whatever the clock says."""
    journey = Journey("search" if state == "lost" else "explore")
    journey.pilot.start(journey.pilot.mode, "ball", "a test", time_limit=60.0)
    sure = {True: 1.0, False: 0.01}
    far = [sure[option == "center far"] for option in READ_TARGET.options]
    gone = [sure[option == "no"] for option in READ_TARGET.options]
    clear, wall = ([sure[label == name] for label in READ_SURROUNDINGS.labels] for name in ("clear", "wall"))

    def feed(target, label, until, steps):
        for step in range(steps):
            if step % 2 == 0:
                journey.answer(target, label, [0.1, 1.0, 0.1, 0.1], journey.now)
            journey.step()
            if until(journey.pilot.decision):
                return True
        return False

    target, label = (gone, clear) if state == "lost" else (gone, wall)
    if state == "lost":
        assert feed(far, clear, lambda decision: decision.state == "approaching", 100)
    assert feed(target, label, lambda decision: state in f"{decision.state} {decision.reason}", 600)
    journey.now += jump
    assert feed(target, label, lambda d: d.state != "stopped" and state not in f"{d.state} {d.reason}", 100)
    assert journey.pilot.answers.faults["clock jumped"] == 1
    if state == "lost":
        assert not feed(target, label, lambda decision: decision.found is not None, 600), "too early"
        assert feed(target, label, lambda decision: decision.found is False, 1200), "never"


def test_an_answer_that_is_overdue_stops_the_robot_before_it_is_given_up_and_nothing_is_forgotten():
    journey = journey_to_a_far_target(None)
    assert journey.pilot.sent.forward > 0.25
    while journey.pilot.sent != STOP:
        journey.step()
    assert not journey.pilot.doubt(journey.now, journey.steady)
    far = [1.0 if option == "center far" else 0.01 for option in READ_TARGET.options]
    journey.answer(far, [1.0, 0.01, 0.01, 0.01, 0.01], [0.1, 1.0, 0.1, 0.1], journey.now)
    journey.step()
    assert journey.pilot.sent.forward > 0.0 and journey.pilot.decision.state == "approaching"


def test_the_range_of_the_target_is_measured_and_far_is_not_near():
    near = [1.0 if option == "center near" else 0.01 for option in READ_TARGET.options]
    for free, distance, probable in ((None, math.nan, True), (0.6, 0.6, True), (2.5, 2.5, False)):
        journey = journey_to_a_far_target(free, seconds=0.3)
        journey.answer(near, [1.0, 0.01, 0.01, 0.01, 0.01], [0.1, 1.0, 0.1, 0.1], journey.now)
        sighting = journey.pilot.answers.sighting
        assert sighting.distance == pytest.approx(distance, abs=0.05, nan_ok=True)
        assert (sighting.near > 0.5, sighting.in_reach > 0.5, sighting.range == "near") == (probable,) * 3


@pytest.mark.parametrize(
    ("unchanged", "turned", "measured", "frozen"),
    [
        (0.3, 0.15, True, True),
        (0.3, 0.05, True, False),
        (0.14, 0.4, True, False),  # a driver that delivers each image several times
        (0.3, 0.15, False, False),  # the base may not have moved yet
        (0.3, 0.25, False, True),
    ],
)
def test_an_image_that_does_not_change_though_the_robot_turns_is_frozen(unchanged, turned, measured, frozen):
    pilot = Pilot(PERIOD, Tuning(), LIMITS, MAX_AGE)
    pilot.start("search", "red ball", "go")
    steps = 8
    for n in range(steps + 1):
        at, angle = 100 - unchanged * (1 - n / steps), turned * n / steps
        if measured:
            pilot.odometry.add_odometry(at, Pose(0.0, 0.0, angle))
        elif n:
            pilot.odometry.add_command(at, Command(0.0, turned / unchanged), unchanged / steps)
    sure = [1.0] + [0.01] * 20
    labels, ways = READ_SURROUNDINGS.labels, READ_SURROUNDINGS.ways
    answers = [answer_to(o, sure[: len(o)]) for o in (labels, ways)]
    assert pilot.take(READ_SURROUNDINGS.read(*answers, 100.0), None, 100.05, 5.0, unchanged) is not frozen
    assert pilot.answers.faults["frozen image"] == frozen


def test_knowledge_fades_as_slowly_with_the_stamps_of_today_as_with_those_of_a_simulation():
    left = []
    for began in (0.0, 1_764_100_000.0):
        pilot = Pilot(PERIOD, Tuning(), LIMITS, MAX_AGE)
        pilot.start("explore", "", "a test")
        for steps in range(3):
            pilot.odometry.add_odometry(began + 0.1 * steps, Pose(heading=0.001 * steps))
            pilot.step(began + 0.1 * steps, 0.1 * steps)
        way = Surroundings(began + 0.2, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0)
        pilot.take(way, None, began + 0.2, 0.2)
        pilot.time += 20.0
        left.append(float(pilot.map.free.odds(pilot.time)[pilot.map.grid.cell(0.5, 0.0)]))
    assert left[0] == pytest.approx(left[1], rel=0.01) and left[0] > 1.0
