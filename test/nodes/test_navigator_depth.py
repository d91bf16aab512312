"""Depth over real DDS: it measures the target, stops the robot, and is missed."""

from __future__ import annotations

import array
import math

import numpy as np
import pytest

pytest.importorskip("rclpy")

from navigator_world import World
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, LaserScan


def depth_image(node, metres):
    pixels = np.full((48, 64), metres, np.float32)
    message = Image(height=48, width=64, encoding="32FC1", step=256, data=array.array("B", pixels.tobytes()))
    message.header.stamp = node.get_clock().now().to_msg()
    return message


def laser_scan(node, metres):
    angles = {"angle_min": -1.0, "angle_max": 1.0, "angle_increment": 0.1}
    message = LaserScan(**angles, range_min=0.05, range_max=10.0, ranges=[metres] * 21)
    message.header.stamp = node.get_clock().now().to_msg()
    return message


@pytest.mark.parametrize(
    ("parameter", "topic", "make", "name"),
    [
        ("depth.image", "camera/depth/image_raw", depth_image, "depth image"),
        ("depth.scan", "scan", laser_scan, "laser scan"),
    ],
)
def test_depth_measures_the_target_stops_the_robot_and_is_missed(ros, parameter, topic, make, name):
    world = World(ros, **{parameter: True})
    world.classifier.answers["target"] = "center far"
    world.set_target("red ball")
    ros.until(lambda: f"no {name} comes" in world.navigator._check().message, "a word about missing depth")
    world.until_twist(lambda t: t.linear.x > 0.1, "driving as without depth")
    assert math.isnan(world.sightings[-1].distance)

    publisher = ros.node.create_publisher(type(make(ros.node, 1.0)), topic, qos_profile_sensor_data)
    metres = 0.0
    timer = ros.node.create_timer(0.05, lambda: publisher.publish(make(ros.node, metres)))
    ros.until(
        lambda: f"the {name} is not usable" in world.states[-1].reason, "standing still, as what comes is unusable"
    )
    world.until_still()
    metres = 3.0
    ros.until(lambda: world.sightings[-1].distance == pytest.approx(3.0, abs=0.2), "distance of the target")
    world.until_twist(lambda t: t.linear.x > 0.1, "driving")
    metres = 0.3
    ros.until(lambda: world.navigator._check().values["free ahead [m]"] < 0.35, "closeness")
    ros.spin(0.1)
    del world.twists[:]
    ros.spin(1.0)
    assert world.twists and all(twist.linear.x <= 0.0 for twist in world.twists)

    metres = math.nan
    ros.until(lambda: "covered" in world.states[-1].reason, "reason")
    metres = 3.0
    world.until_twist(lambda t: t.linear.x > 0.1 or t.angular.z != 0.0, "motion")
    ros.node.destroy_timer(timer)
    ros.until(lambda: f"the {name} was in use and has failed" in world.states[-1].reason, "reason")
    world.until_still()
    assert world.navigator._check().values[f"faults, unusable {name}"] >= 1
