"""Properties of the whole law of motion: whatever happens, and in whatever order, no unsafe command leaves it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinematic_room import READ_SURROUNDINGS, READ_TARGET

from vlm_perception.navigation.behaviours import Tuning
from vlm_perception.navigation.motion import STOP, Command, Limits, MotionLimiter, Pose
from vlm_perception.navigation.pilot import MODES, Pilot
from vlm_perception.navigation.sighting import UnusableAnswer
from vlm_perception.questions import Answer

PERIOD = 0.05
MAX_AGE = 0.8
LIMITS = Limits(forward_speed=0.3, turn_speed=0.8)

anything = st.floats(allow_nan=True, allow_infinity=True)
"""Any number that a message can carry."""


def answer_to(name: str, options: tuple[str, ...], weights: list[float]) -> Answer:
    """The distribution of these weights, which may be none at all."""
    total = sum(weights)
    chances = tuple(weight / total for weight in weights) if 0.0 < total < math.inf else tuple(weights)
    best = max(range(len(options)), key=lambda i: chances[i])
    return Answer(name, options[best], chances[best], options, chances)


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
    lasts: float


events = st.builds(
    Event,
    # Mostly good answers, or the robot would never move.
    what=st.sampled_from([*["answers"] * 14, "garbage", "failure", "odometry", "start", "jump", "pause", "nothing"]),
    target=distributions(READ_TARGET.options),
    label=distributions(READ_SURROUNDINGS.labels),
    way=distributions(READ_SURROUNDINGS.ways),
    age=st.sampled_from([0.0, 0.1, 0.1, 0.1, 0.5]) | st.floats(-2.0, 2.0),
    mode=st.sampled_from(MODES),
    measured=st.builds(Pose, anything, anything, anything) | st.builds(Pose, *[st.floats(-3.0, 3.0)] * 3),
    jump=st.floats(-100.0, 100.0),
    lasts=st.sampled_from([0.1, 0.3, 1.0, 3.0]),
)


class Journey:
    """A pilot to which things happen; `log` has every command sent, and `check` what must hold of each."""

    def __init__(self, mode: str = "search") -> None:
        self.pilot = Pilot(PERIOD, Tuning(), LIMITS, MAX_AGE)
        self.pilot.start(mode, "ball", "a test")
        self.now, self.steady = 1000.0, 0.0
        self.newest = -math.inf  # stamp of the newest picture that the pilot may believe
        self.arrived = -math.inf
        self.log: list[Command | None] = []

    def happen(self, event: Event) -> None:
        if event.what == "garbage":
            self.answer([math.nan, *event.target[1:]], event.label, [*event.way[:-1], -1.0], self.now)
        elif event.what == "failure":
            self.pilot.fail("failure", "the classifier says no")
            self.newest = -math.inf
        elif event.what == "odometry":
            self.pilot.track.add_odometry(self.now, event.measured)
        elif event.what == "start":
            self.pilot.start(event.mode, "ball", "the test says so")
            self.newest = -math.inf
        elif event.what == "jump":
            self.now += event.jump
        for step in range(round(event.lasts / PERIOD)):
            if event.what == "answers" and step % 2 == 0:
                self.answer(event.target, event.label, event.way, self.now - event.age)
            self.step(clock_runs=event.what != "pause")

    def answer(self, target: list[float], label: list[float], way: list[float], stamp: float) -> None:
        """Do what the node does with the classifier's answers."""
        try:
            surroundings = READ_SURROUNDINGS.read(
                answer_to("label", READ_SURROUNDINGS.labels, label),
                answer_to("way", READ_SURROUNDINGS.ways, way),
                stamp,
            )
            sighting = READ_TARGET.read(answer_to("target", READ_TARGET.options, target), stamp)
        except UnusableAnswer as error:
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
            assert -0.1 - 1e-9 <= self.now - self.newest <= MAX_AGE + 1e-9, "moved on a picture that is not fresh"
            assert self.steady - self.arrived <= MAX_AGE + 1e-9, "moved on an answer that is not fresh"
            assert abs(sent.forward) - abs(before.forward) <= LIMITS.forward_acceleration * PERIOD + 1e-9
            assert abs(sent.forward - before.forward) <= LIMITS.braking * PERIOD + 1e-9
            assert abs(sent.turn) - abs(before.turn) <= LIMITS.turn_acceleration * PERIOD + 1e-9
            assert abs(sent.turn - before.turn) <= 2.0 * LIMITS.turn_acceleration * PERIOD + 1e-9
        assert pilot.decision.reason and pilot.decision.state


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(MODES), st.lists(events, min_size=5, max_size=40))
def test_no_unsafe_command_whatever_happens_and_the_same_again(mode, happenings):
    journeys = Journey(mode), Journey(mode)
    for journey in journeys:
        for event in happenings:
            journey.happen(event)
    assert journeys[0].log == journeys[1].log


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["left", "right"]),
    st.sampled_from(["near", "far"]),
    st.floats(0.75, 1.0),
    distributions(READ_SURROUNDINGS.labels),
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
            assert journey.pilot.sent.forward == 0.0
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
