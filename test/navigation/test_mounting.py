"""Transforms become a camera's height and pitch and a laser's pose, by the axes of REP 103."""

from __future__ import annotations

import math

import pytest

from vlm_perception.navigation.mounting import MountingError, Transform, camera_mounting, scan_pose

HALF = math.sqrt(0.5)


def product(a, b):
    """The quaternion (x, y, z, w) that turns by `b` and then by `a`."""
    (ax, ay, az, aw), (bx, by, bz, bw) = a, b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def turn(roll=0.0, pitch=0.0, yaw=0.0):
    """The quaternion of fixed-axis roll, pitch and yaw, as a URDF's rpy has them."""
    x = (math.sin(roll / 2), 0.0, 0.0, math.cos(roll / 2))
    y = (0.0, math.sin(pitch / 2), 0.0, math.cos(pitch / 2))
    z = (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))
    return product(z, product(y, x))


OPTICAL = (-0.5, 0.5, -0.5, 0.5)
"""From a camera's body (x forward, z up) to its optical frame (z forward, x right, y down), as every URDF has it."""


def camera(x=0.1, y=0.0, z=0.4, **turned):
    return Transform((x, y, z), product(turn(**turned), OPTICAL))


def test_a_camera_that_looks_ahead_has_its_height_and_no_pitch():
    assert camera_mounting(camera()) == pytest.approx((0.4, 0.0))


@pytest.mark.parametrize("pitch", [-0.4, 0.12, 0.8])
def test_pitch_is_positive_downwards_as_a_urdf_has_it(pitch):
    assert camera_mounting(camera(pitch=pitch)) == pytest.approx((0.4, pitch))


def test_a_little_aside_and_rolled_is_as_built():
    height, pitch = camera_mounting(camera(pitch=0.2, yaw=0.1, roll=0.05))
    assert (height, pitch) == pytest.approx((0.4, 0.2), abs=0.01)


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (Transform((0.1, 0.0, 0.4), turn()), "looks straight up: is its frame the optical one"),
        (camera(yaw=0.8), "looks 0.80 rad to the left"),
        (camera(yaw=-0.8), "looks 0.80 rad to the right"),
        (camera(yaw=math.pi), "expected ahead"),
        (camera(roll=math.pi), "rolled by"),
        (camera(roll=-HALF), "rolled by -?0.71 rad"),
        (camera(z=-0.2), "-0.2 m above the floor"),
        (camera(z=12.0), "12 m above the floor"),
        (camera(z=math.nan), "not a transform"),
        (Transform((0.0, 0.0, 0.4), (0.0, 0.0, 0.0, 0.0)), "not a transform"),
        (Transform((0.0, 0.0, 0.4), (math.nan, 0.0, 0.0, 1.0)), "not a transform"),
    ],
)
def test_a_camera_that_does_not_look_ahead_is_refused_in_words(transform, words):
    with pytest.raises(MountingError, match=words):
        camera_mounting(transform)


def test_a_laser_is_seen_from_the_camera():
    laser = Transform((-0.2, 0.3, 0.1), turn(yaw=0.5))
    assert scan_pose(camera(x=0.1), laser) == pytest.approx((-0.3, 0.3, 0.5))


def test_a_laser_that_is_turned_round_is_half_a_turn_away():
    ahead, left, turned = scan_pose(camera(), Transform((0.1, 0.0, 0.1), turn(yaw=math.pi)))
    assert (ahead, left, abs(turned)) == pytest.approx((0.0, 0.0, math.pi))


def test_ahead_is_where_the_camera_looks():
    assert scan_pose(camera(x=0.0, yaw=0.2), Transform((1.0, 0.0, 0.1), turn())) == pytest.approx(
        (math.cos(0.2), -math.sin(0.2), -0.2)
    )


@pytest.mark.parametrize(
    ("laser", "words"),
    [
        (Transform((0.0, 0.0, 0.1), turn(roll=math.pi)), "tilted by 3.14 rad"),
        (Transform((0.0, 0.0, 0.1), turn(pitch=0.5)), "tilted by 0.50 rad"),
        (Transform((50.0, 0.0, 0.1), turn()), "49.9 m from the camera"),
    ],
)
def test_a_laser_that_does_not_scan_level_is_refused_in_words(laser, words):
    with pytest.raises(MountingError, match=words):
        scan_pose(camera(), laser)
