"""What depth says: how far, how free, and when it says nothing."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from vlm_perception.navigation.depth import DepthReading, DepthSensor, Points, UnusableDepthError
from vlm_perception.navigation.motion import Pose
from vlm_perception.navigation.sighting import third

FIELD_OF_VIEW = 1.31
HEIGHT, WIDTH = 120, 160
FOCAL = WIDTH / 2 / math.tan(FIELD_OF_VIEW / 2)
READ = DepthReading(FIELD_OF_VIEW, camera_height=0.3, camera_pitch=0.0)


def image(depth: np.ndarray, encoding: str = "32FC1", big: bool = False, padding: int = 0) -> SimpleNamespace:
    """A depth image [m] as a message; each row is followed by bytes of `padding`."""
    pixels = depth.astype(np.float32) if encoding == "32FC1" else (depth * 1000).round().astype(np.uint16)
    rows = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).view(np.uint8).reshape(len(depth), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=255)
    return SimpleNamespace(
        height=depth.shape[0],
        width=depth.shape[1],
        encoding=encoding,
        is_bigendian=int(big),
        step=rows.shape[1],
        data=rows.tobytes(),
    )


def scene(wall: float = 3.0, height: float = 0.3, pitch: float = 0.0) -> np.ndarray:
    """What a camera at this height sees: a floor, and a wall across [m]."""
    down = ((np.arange(HEIGHT) - (HEIGHT - 1) / 2) / FOCAL)[:, None] + np.zeros((1, WIDTH))
    c, s = math.cos(pitch), math.sin(pitch)
    with np.errstate(divide="ignore"):
        floor = height / (down * c + s)
        across = wall / (c - down * s)
    return np.where(floor > 0.0, np.minimum(floor, across), across)


def put(depth: np.ndarray, distance: float, left: float, width: float = 0.1) -> np.ndarray:
    """Put a post of a `width` [m] into the scene."""
    right = (np.arange(WIDTH) - (WIDTH - 1) / 2) / FOCAL * distance
    columns = np.abs(right + left) < width / 2
    depth = depth.copy()
    depth[:, columns] = np.minimum(depth[:, columns], distance)
    return depth


@pytest.mark.parametrize("encoding", ["32FC1", "16UC1"])
@pytest.mark.parametrize(("big", "padding"), [(False, 0), (True, 8)])
def test_the_floor_is_not_in_the_way_and_a_wall_is(encoding, big, padding):
    points = READ.read_image(image(scene(wall=2.0), encoding, big, padding), 7.0)
    assert points.stamp == 7.0 and points.free(0.5, 0.5) == pytest.approx(2.0, abs=0.01)
    pitched = DepthReading(FIELD_OF_VIEW, 0.4, 0.3)
    points = pitched.read_image(image(scene(2.0, 0.4, 0.3), encoding, big, padding), 7.0)
    assert points.free(0.5, 0.5) == pytest.approx(2.0, abs=0.01)
    assert (points.up > 0.0).all() and points.up.min() < 0.12


def test_only_what_is_as_wide_and_as_high_as_the_robot_is_in_the_way():
    for left, free in ((0.0, 0.8), (0.2, 0.8), (-0.2, 0.8), (0.35, 3.0), (-0.35, 3.0)):
        depth = put(scene(), 0.8, left)
        assert READ.read_image(image(depth), 0.0).free(0.5, 0.5) == pytest.approx(free, abs=0.02), left
    table = scene()
    table[:20] = 0.6  # its top is above the robot
    assert READ.read_image(image(table), 0.0).free(0.5, 0.5) == pytest.approx(3.0, abs=0.02)
    assert READ.read_image(image(table), 0.0).free(0.5, 1.5) == pytest.approx(0.6, abs=0.02)


def test_a_single_wrong_pixel_is_noise_and_nothing_in_reach_is_free():
    depth = scene()
    depth[40, 80] = 0.2
    assert READ.read_image(image(depth), 0.0).free(0.5, 0.5) == pytest.approx(3.0, abs=0.02)
    assert READ.read_image(image(np.full((HEIGHT, WIDTH), np.inf)), 0.0).free(0.5, 0.5) == math.inf


def test_what_is_too_close_to_be_measured_is_in_the_way():
    depth = scene()
    depth[40:80, 60:100] = -np.inf
    assert READ.read_image(image(depth), 0.0).free(0.5, 0.5) == 0.0


@pytest.mark.parametrize(("direction", "left"), [("left", 0.8), ("center", 0.0), ("right", -0.8)])
def test_the_range_of_a_direction(direction, left):
    depth = put(scene(), 1.5, left, width=0.4)
    ranges = {d: READ.read_image(image(depth), 0.0).range_between(*third(d, FIELD_OF_VIEW)) for d in third_names}
    assert ranges.pop(direction) == pytest.approx(math.hypot(1.5, left), abs=0.15)
    assert min(ranges.values()) > 2.9


third_names = ("left", "center", "right")


def test_the_thirds_are_those_of_the_image():
    borders = [third(direction, FIELD_OF_VIEW) for direction in third_names]
    assert borders[0][1] == pytest.approx(FIELD_OF_VIEW / 2) and borders[2][0] == pytest.approx(-FIELD_OF_VIEW / 2)
    assert borders[0][0] == borders[1][1] and borders[1][0] == borders[2][1]
    assert math.tan(borders[1][1]) == pytest.approx(math.tan(FIELD_OF_VIEW / 2) / 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "rgb8"}, "rgb8"),
        ({"height": HEIGHT + 1}, "do not fit"),
        ({"step": 100}, "do not fit"),
        ({"width": 0}, "do not fit"),
        ({"data": b""}, "do not fit"),
        ({"data": np.full((HEIGHT, WIDTH), np.nan, np.float32).tobytes()}, "covered"),
        ({"data": np.zeros((HEIGHT, WIDTH), np.float32).tobytes()}, "depth at 0%"),
        ({"data": np.full((HEIGHT, WIDTH), -1.0, np.float32).tobytes()}, "depth at 0%"),
        ({"data": (1000.0 * scene(0.4)).astype(np.float32).tobytes()}, "unit"),  # millimetres
        ({"data": image(scene()).data + b"\0"}, "do not fit"),
        ({"data": image(np.where(np.abs(np.arange(WIDTH) - 80) < 30, 0.0, scene())).data}, "middle"),
        ({"encoding": "16UC1", "step": 2 * WIDTH, "data": b"\xff" * (2 * HEIGHT * WIDTH)}, "depth at 0%"),
    ],
)
def test_an_image_that_says_nothing_is_refused(change, words):
    message = image(scene())
    vars(message).update(change)
    with pytest.raises(UnusableDepthError, match=words):
        READ.read_image(message, 0.0)


def scan(ranges, start=-math.pi, step=math.pi / 180, end=None) -> SimpleNamespace:
    end = start + step * (len(ranges) - 1) if end is None else end
    return SimpleNamespace(
        ranges=ranges, angle_min=start, angle_max=end, angle_increment=step, range_min=0.1, range_max=10.0
    )


def test_a_scan_wherever_the_laser_is_mounted():
    ranges = np.full(360, np.inf)
    ranges[180] = 2.0  # straight on from the laser
    assert READ.read_scan(scan(ranges), 3.0).free(0.5, 0.5) == pytest.approx(2.0)
    behind = DepthReading(FIELD_OF_VIEW, 0.3, 0.0, scan_pose=(-0.2, 0.1, math.pi))
    ranges[:] = np.inf
    ranges[0] = 2.0
    points = behind.read_scan(scan(ranges), 3.0)
    assert (points.free(0.5, 0.5), points.left[0]) == (pytest.approx(1.8), pytest.approx(0.1))
    ranges[0] = -np.inf
    assert behind.read_scan(scan(ranges), 3.0).free(1.0, 0.5) == math.inf, "that is behind the camera"
    ranges[180] = 0.05  # below its least range
    assert READ.read_scan(scan(ranges), 3.0).free(0.5, 0.5) == math.inf
    ranges[180] = -np.inf
    assert READ.read_scan(scan(ranges), 3.0).free(0.5, 0.5) < 0.01


TOO_CLOSE = [math.inf] * 170 + [0.0] * 20 + [math.inf] * 170
"""What a driver sends that reports 0 for a thing right before the laser."""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ranges": []}, "expected some ranges"),
        *(({"ranges": [value] * 360}, "depth at 0%") for value in (math.nan, 0.0, -1.0, 0.05, 400.0)),
        ({"ranges": TOO_CLOSE}, "middle"),
        *(({"range_max": value}, "range_max") for value in (0.0, -5.0, math.nan, math.inf, 0.1, 12_000.0)),
        *(({"range_min": value}, "range_min") for value in (-0.1, math.nan, math.inf, 11.0)),
        ({"range_min": 0.45}, "stop_distance"),
        ({"range_max": 0.3}, "stop_distance"),
        *(({"angle_min": value}, "angles") for value in (math.nan, math.inf)),
        *(({"angle_increment": value}, "angles") for value in (0.0, math.nan, -math.inf)),
        ({"angle_increment": -math.pi / 180}, "sign"),
        ({"angle_max": 0.0}, "do not fit"),
        ({"ranges": [3.0] * 300}, "ranges missing"),
        ({"angle_min": -180.0, "angle_max": 180.0, "angle_increment": 1.0}, "degrees"),
        ({"angle_min": 2.0, "angle_max": 2.0 + math.radians(359)}, None),  # ahead is within it, beyond a whole turn
        ({"angle_min": 1.5, "angle_max": 3.0, "angle_increment": 1.5 / 359}, "turned away"),
    ],
)
def test_a_scan_that_says_nothing_or_contradicts_itself_is_refused(change, words):
    message = scan([3.0] * 360)
    vars(message).update(change)
    if words is None:
        assert READ.read_scan(message, 0.0).free(0.5, 0.5) == pytest.approx(3.0, abs=0.1)
        return
    with pytest.raises(UnusableDepthError, match=words):
        READ.read_scan(message, 0.0)


def test_a_scan_that_turns_to_the_right_is_read_as_it_says():
    """As an upside-down laser is delivered whose driver turns the angles and not the ranges."""
    ranges = np.full(360, 5.0)
    ranges[90] = 1.0
    to_the_left, to_the_right = scan(ranges), scan(ranges, start=math.pi, step=-math.pi / 180)
    for message, left in ((to_the_left, -1.0), (to_the_right, 1.0)):
        points = READ.read_scan(message, 0.0)
        assert points.left[90] == pytest.approx(left, abs=0.02)


def test_the_usual_small_errors_of_angles_are_none():
    for end in (math.pi, math.pi - 2 * math.pi / 180):
        assert READ.read_scan(scan([3.0] * 360, end=end), 0.0).free(0.5, 0.5) == pytest.approx(3.0, abs=0.1)


def test_a_laser_has_to_measure_where_the_robot_is_to_stop():
    ahead = DepthReading(FIELD_OF_VIEW, 0.3, 0.0, scan_pose=(0.3, 0.0, 0.0))
    with pytest.raises(UnusableDepthError, match="0.05 m from the laser"):
        ahead.read_scan(scan([3.0] * 360), 0.0)
    behind = DepthReading(FIELD_OF_VIEW, 0.3, 0.0, scan_pose=(-0.3, 0.0, 0.0))
    message = scan([3.0] * 360)
    message.range_min = 0.6
    assert behind.read_scan(message, 0.0).free(0.5, 0.5) == pytest.approx(2.7, abs=0.1)
    with pytest.raises(ValueError, match="scan_pose"):
        DepthReading(FIELD_OF_VIEW, 0.3, 0.0, scan_pose=(0.0,))


def post(distance: float, left: float = 0.0, stamp: float = 0.0) -> Points:
    """A thing at one place."""
    return Points(stamp, np.full(9, distance), np.full(9, left), np.full(9, 0.2), enough=5)


def test_points_stay_where_they_are_when_the_robot_moves():
    then = Pose(4.0, -2.0, 2.0)
    now = Pose(*then.ahead(0.5), 2.0)
    assert post(2.0).moved(then, now).ahead[0] == pytest.approx(1.5)
    turned = post(2.0).moved(then, Pose(4.0, -2.0, 2.0 + math.pi / 2))
    assert (turned.ahead[0], turned.left[0]) == (pytest.approx(0.0, abs=1e-9), pytest.approx(-2.0))


def test_a_sensor_is_used_while_it_is_fresh_and_missed_when_it_was_in_use():
    sensor = DepthSensor("depth image", max_age=0.5)
    assert sensor.points(0.0, 0.0, Pose()) is None and sensor.doubt(0.0, 0.0) is None, "none is no doubt"
    sensor.add(post(1.0, stamp=100.0), Pose(), steady=5.0)
    for now, steady, words in ((101.0, 5.1, "1 s old"), (99.0, 5.1, "-1 s old"), (100.1, 5.6, "nothing newer")):
        assert sensor.points(now, steady, Pose()) is None and words in sensor.doubt(now, steady), "it sends, unusably"
    assert sensor.points(100.1, 5.1, Pose()) is not None and sensor.doubt(100.1, 5.1) is None
    assert "was in use and has failed" in sensor.doubt(100.2, 5.7)
    assert "do the clocks agree" in sensor.doubt(100.7, 5.2) and "do the clocks agree" in sensor.doubt(99.0, 5.2)
    sensor.fail("it is covered")
    assert "covered" in sensor.doubt(100.1, 5.1) and sensor.faults == {"unusable depth image": 1}
    sensor.add(post(1.0, stamp=100.2), Pose(), steady=5.2)
    assert sensor.doubt(100.2, 5.2) is None
    sensor.forget()
    assert sensor.doubt(200.0, 200.0) is None, "begun anew without it"
