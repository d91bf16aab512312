"""What reaches the wheels, and where the robot was."""

from __future__ import annotations

import math
import random

import pytest

from vlm_perception.navigation.motion import STOP, Command, Limits, MotionLimiter, Pose, wrap
from vlm_perception.navigation.odometry import OdometryBuffer

PERIOD = 0.05
LIMITS = Limits(forward_speed=0.3, turn_speed=0.8, forward_acceleration=0.5, turn_acceleration=2.5, braking=1.5)


def test_it_speeds_up_within_the_limits_and_gets_there():
    limiter = MotionLimiter(LIMITS, PERIOD)
    sent = [limiter.step(Command(1.0, -5.0)) for _ in range(40)]
    assert sent[0] == Command(0.025, -0.125)
    assert sent[-1] == Command(0.3, -0.8)


def test_no_command_whatever_breaks_a_limit():
    draw = random.Random(0)
    limiter = MotionLimiter(LIMITS, PERIOD)
    strange = [math.nan, math.inf, -math.inf, 1e300, 0.0, -0.0]
    before = STOP
    for _ in range(20_000):
        forward, turn = (draw.choice([*strange, draw.uniform(-1, 1), draw.uniform(-0.1, 0.1)]) for _ in range(2))
        wanted = draw.choice([None, Command(forward, turn), Command(forward, turn)])
        sent = limiter.step(wanted) or STOP
        assert sent.is_finite and abs(sent.forward) <= 0.3 and abs(sent.turn) <= 0.8
        if wanted is None or not wanted.is_finite:
            assert sent == STOP
        else:
            assert abs(sent.forward) - abs(before.forward) <= 0.5 * PERIOD + 1e-9
            assert abs(sent.forward - before.forward) <= 1.5 * PERIOD + 1e-9
            assert abs(sent.turn) - abs(before.turn) <= 2.5 * PERIOD + 1e-9
            assert sent.forward * before.forward >= 0.0 and sent.turn * before.turn >= 0.0, "reversed without a stop"
        before = sent


@pytest.mark.parametrize("wanted", [None, Command(math.nan, 0.0), Command(0.1, math.inf)])
def test_doubt_brakes_at_once_and_then_there_is_silence(wanted):
    limiter = MotionLimiter(LIMITS, PERIOD, zeros=3)
    for _ in range(40):
        limiter.step(Command(0.3, 0.5))
    assert [limiter.step(wanted) for _ in range(5)] == [STOP, STOP, STOP, None, None]
    assert limiter.step(Command(0.3, 0.0)) == Command(0.025, 0.0)


def test_it_is_silent_before_the_first_motion():
    assert MotionLimiter(LIMITS, PERIOD).step(None) is None


def test_stop_is_a_zero_even_after_silence():
    limiter = MotionLimiter(LIMITS, PERIOD)
    assert limiter.step(None) is None and limiter.stop() == STOP


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_impossible_limits_are_refused(value):
    with pytest.raises(ValueError, match="braking"):
        Limits(braking=value)
    with pytest.raises(ValueError, match="period"):
        MotionLimiter(LIMITS, value)


def test_wrap():
    assert wrap(math.pi + 0.1) == pytest.approx(-math.pi + 0.1) and wrap(-7.0) == pytest.approx(-7.0 + math.tau)


def test_bearing_of_a_point_is_positive_to_the_left():
    assert Pose(1.0, 1.0, math.pi / 2).bearing_of((0.0, 1.0)) == pytest.approx(math.pi / 2)
    assert Pose(0.0, 0.0, 3.0).ahead(2.0, -3.0) == pytest.approx((2.0, 0.0))


def test_commands_are_integrated_and_remembered():
    odometry = OdometryBuffer()
    for step in range(1, 101):
        odometry.add_command(step * 0.1, Command(0.2, 0.0) if step <= 50 else Command(0.0, 0.5), 0.1)
    assert odometry.pose.x == pytest.approx(1.0) and odometry.pose.heading == pytest.approx(2.5)
    assert odometry.at(2.55).x == pytest.approx(0.51)
    assert odometry.at(7.5).heading == pytest.approx(1.25)
    assert odometry.at(99.0) == odometry.pose and odometry.at(-5.0).x == pytest.approx(0.02)


def test_odometry_is_better_than_commands_whatever_its_frame():
    odometry = OdometryBuffer()
    for step in range(101):
        time = step * 0.05
        heading = 3.0 + 0.1 * time  # crosses pi and is wrapped, as a quaternion is
        odometry.add_odometry(time, Pose(5.0 - 0.2 * time * math.cos(0.1), -7.0, wrap(heading)))
        if step:  # the first message is no change yet
            odometry.add_command(time, Command(0.3, 0.2), 0.05)
    assert odometry.pose.heading == pytest.approx(0.5)
    assert math.hypot(odometry.pose.x, odometry.pose.y) == pytest.approx(0.995, abs=0.01)
    assert odometry.has_odometry(5.2) and not odometry.has_odometry(6.0)


def test_commands_help_out_when_odometry_ends_and_a_teleport_is_no_motion():
    odometry = OdometryBuffer()
    odometry.add_odometry(0.0, Pose(0.0, 0.0, 0.0))
    odometry.add_odometry(0.1, Pose(0.02, 0.0, 0.0))
    odometry.add_odometry(0.2, Pose(3.0, 3.0, 1.0))
    odometry.add_odometry(0.3, Pose(math.nan, 3.0, 1.0))
    assert odometry.pose == Pose(0.02, 0.0, 0.0)
    odometry.add_command(2.0, Command(0.2, 0.0), 0.1)
    assert odometry.pose.x == pytest.approx(0.04)


def test_a_clock_that_jumps_back_leaves_the_track_in_order():
    odometry = OdometryBuffer()
    for time in (10.0, 11.0, 12.0, 3.0, 4.0):
        odometry.add_command(time, Command(0.1, 0.0), 1.0)
    assert odometry.at(3.5).x == pytest.approx(0.45)
