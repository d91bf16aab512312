"""The navigator takes the field of view from CameraInfo and the mountings from TF, and says which it uses.

There are no wheels of tf2_ros: its Buffer is a stand-in here, with the one method that the package calls.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import ClassVar

import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import TransformStamped
from navigator_world import World
from sensor_msgs.msg import CameraInfo, LaserScan

from vlm_perception.nodes import transforms
from vlm_perception.nodes.camera_info import camera_info
from vlm_perception.nodes.diagnostics import Level
from vlm_perception.nodes.sensor_geometry import DISAGREE
from vlm_perception.perception.camera_calibration import CameraCalibration

OPTICAL = (-0.5, 0.5, -0.5, 0.5)
CAMERA = "camera_optical_frame"


class Buffer:
    """What TF knows: where the second frame is in the first."""

    known: ClassVar[dict[tuple[str, str], tuple]] = {}

    def lookup_transform(self, target, source, time):
        if (target, source) not in self.known:
            raise StandInError(f"{target!r} and {source!r} are not connected")
        translation, rotation = self.known[target, source]
        found = TransformStamped().transform
        found.translation.x, found.translation.y, found.translation.z = translation
        found.rotation.x, found.rotation.y, found.rotation.z, found.rotation.w = rotation
        return SimpleNamespace(transform=found)


class StandInError(Exception):
    pass


@pytest.fixture
def tf(monkeypatch):
    """What TF knows, to be filled."""
    Buffer.known = {}
    stand_in = SimpleNamespace(Buffer=Buffer, TransformListener=lambda *_: None, TransformException=StandInError)
    monkeypatch.setattr(transforms, "tf2_ros", stand_in)
    return Buffer.known


def publish_info(world, message, times=1):
    publisher = world.ros.node.create_publisher(CameraInfo, "camera/camera_info", 1)
    world.ros.until(publisher.get_subscription_count, "subscription of the navigator")
    for _ in range(times):
        publisher.publish(message)


def info(width, height, field_of_view_y, frame=CAMERA):
    message = camera_info(CameraCalibration.pinhole(width, height, field_of_view_y), CameraInfo().header)
    message.header.frame_id = frame
    return message


def health(world, name, words):
    """Wait until the diagnostics value `name` has these words in it."""
    check = world.navigator._check
    world.ros.until(lambda: words in check().values[name], f"{words!r} in {name}: {check().values[name]}")
    return check()


def answered(world):
    """Have an answer about an image come, so that the frame of the images is known."""
    world.set_target("red ball")
    world.until_state("searching")
    world.ros.until(lambda: world.sightings, "answer")
    world.set_target("")


def test_without_either_the_parameters_are_used_and_nothing_is_wrong(ros, monkeypatch):
    monkeypatch.setattr(transforms, "tf2_ros", None)
    world = World(ros, **{"camera.field_of_view": 1.2, "depth.scan": True})
    report = world.navigator._check()
    assert report.level is Level.OK
    assert report.values["field of view"] == "1.2 rad, from the parameters: nothing comes on /camera/camera_info"
    assert report.values["camera mounting"].startswith("0.3 m high, 0.12 rad down, from the parameters")
    assert "from the parameters" in report.values["laser pose"]
    answered(world)
    assert "tf2_ros is not installed" in world.navigator._check().values["camera mounting"]


def test_the_field_of_view_of_camera_info_wins_and_a_disagreement_is_a_warning(ros):
    world = World(ros)
    world.classifier.answers["target"] = "left far"
    answered(world)
    wide, narrow = math.tan(1.31 / 2), math.tan(0.4) * 4 / 3
    before = math.tan(world.sightings[-1].bearing) / wide
    publish_info(world, info(640, 480, 0.8))
    report = health(world, "field of view", "from /camera/camera_info")
    assert report.level is Level.WARN and "camera.field_of_view is 1.31 rad, but 1.03 rad" in report.message
    del world.sightings[:]
    answered(world)
    assert math.tan(world.sightings[-1].bearing) / narrow == pytest.approx(before, abs=0.01)
    narrow = 2 * math.atan(narrow)
    assert world.navigator._pilot._tuning.field_of_view == pytest.approx(narrow)
    closer = ros.set_parameter("navigator", "camera.field_of_view", narrow * (1 + 0.9 * DISAGREE))
    assert closer.successful and world.navigator._check().level is Level.OK
    assert world.navigator._settings.camera.field_of_view == pytest.approx(narrow)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (CameraInfo(), "its size is 0x0"),
        (CameraInfo(width=640, height=480), "not calibrated"),
        (info(640, 480, 1.0, frame="rear_optical_frame"), "it is about the frame 'rear_optical_frame'"),
    ],
)
def test_a_camera_info_that_is_implausible_or_anothers_is_refused_in_words(ros, message, words):
    world = World(ros)
    publish_info(world, info(640, 480, 1.0))
    health(world, "field of view", "1.26 rad, from /camera")
    answered(world)
    publish_info(world, message, times=2)
    report = health(world, "field of view", words)
    assert report.level is Level.WARN and words in report.message
    assert world.navigator._settings.camera.field_of_view == 1.31
    assert world.navigator._pilot._tuning.field_of_view == 1.31


def test_the_mountings_come_from_tf(ros, tf):
    tf["base_link", CAMERA] = (0.2, 0.0, 0.5), OPTICAL
    tf["base_link", "laser"] = (-0.1, 0.05, 0.2), (0.0, 0.0, math.sin(0.15), math.cos(0.15))
    world = World(ros, **{"depth.scan": True})
    answered(world)
    publisher = ros.node.create_publisher(LaserScan, "scan", 1)
    scan = LaserScan(angle_min=-1.0, angle_max=1.0, angle_increment=0.1, range_min=0.05, range_max=10.0)
    scan.header.frame_id, scan.ranges = "laser", [2.0] * 21
    ros.until(publisher.get_subscription_count, "subscription of the navigator")
    publisher.publish(scan)
    report = health(world, "laser pose", "from TF (base_link to laser)")
    assert report.level is Level.OK
    assert report.values["camera mounting"] == f"0.5 m high, 0 rad down, from TF (base_link to {CAMERA})"
    reading = world.navigator._settings.depth_reading()
    assert (reading.camera_height, reading.camera_pitch) == pytest.approx((0.5, 0.0))
    assert reading.scan_pose == pytest.approx((-0.3, 0.05, 0.3))


def test_the_height_counts_from_the_floor_where_tf_knows_it(ros, tf):
    tf["r1/base_link", CAMERA] = (0.2, 0.0, 0.5), OPTICAL
    tf["r1/base_footprint", CAMERA] = (0.2, 0.0, 0.6), OPTICAL
    world = World(ros, base_frame="r1/base_link")
    answered(world)
    report = health(world, "camera mounting", "0.6 m high")
    assert f"from TF (r1/base_footprint to {CAMERA})" in report.values["camera mounting"]


def test_a_frame_that_tf_does_not_know_leaves_the_parameters_until_it_does(ros, tf):
    world = World(ros)
    answered(world)
    assert health(world, "camera mounting", "are not connected").level is Level.OK
    tf["base_link", CAMERA] = (0.2, 0.0, 0.5), OPTICAL
    health(world, "camera mounting", "0.5 m high")


def test_a_mounting_that_cannot_be_computed_with_is_a_warning(ros, tf):
    tf["base_link", CAMERA] = (0.2, 0.0, 0.5), (0.0, 0.0, 0.0, 1.0)
    world = World(ros)
    answered(world)
    report = health(world, "camera mounting", "0.3 m high, 0.12 rad down, from the parameters: the camera looks")
    assert report.level is Level.WARN and "is its frame the optical one" in report.message
