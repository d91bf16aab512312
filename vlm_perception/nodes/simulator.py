"""The node `simulator`: a MuJoCo room with a robot, in real time, with the topics of a real robot."""

from __future__ import annotations

import array
import math
import sys
import time
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import UInt32

from vlm_perception.nodes.camera_info import camera_info
from vlm_perception.nodes.faults import one_line
from vlm_perception.nodes.parameters import ParameterTable
from vlm_perception.nodes.qos import IMAGES
from vlm_perception.nodes.run import run
from vlm_perception.nodes.services import create_service
from vlm_perception.nodes.simulator_parameters import Parameters
from vlm_perception.perception.camera_calibration import CameraCalibration
from vlm_perception.simulation.room import RobotPose, make_room
from vlm_perception.simulation.world import World
from vlm_perception.srv import ResetSimulation

MAX_LAG = 0.2  # [s] of simulated time to catch up at once after a pause of the machine


class Simulator(Node):
    """The node: steps the physics by the wall clock, and publishes the camera, the odometry and, for tests, the truth.

    All code runs in the executor's thread, because an OpenGL context belongs to one thread.
    """

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("simulator", **node_arguments)
        self._table = ParameterTable(self, Parameters)
        values = self._table.values
        self._image_publisher = self.create_publisher(Image, "camera/image_raw", IMAGES)
        self._info_publisher = self.create_publisher(CameraInfo, "camera/camera_info", IMAGES)
        self._depth_publisher = None
        if values.depth_rate:
            self._depth_publisher = self.create_publisher(Image, "camera/depth/image_raw", IMAGES)
        self._odometry_publisher = self.create_publisher(Odometry, "odom", 10)
        self._truth_publisher = self.create_publisher(Odometry, "~/ground_truth", 10)
        self._collisions_publisher = self.create_publisher(UInt32, "~/collisions", 10)
        create_service(
            self, ResetSimulation, "~/reset", self._on_reset, lambda error: self.get_logger().error(one_line(error))
        )
        self._world = self._build(values.seed, values.kind)
        self._depth_at = -math.inf
        self._command_at = -math.inf
        self._command_type: type = Twist
        self._subscription = self._subscribe(Twist)
        self._last = self._now()
        self.create_timer(1.0 / values.camera_rate, self._on_tick)
        self.create_timer(0.25, self._follow_command_type)
        self.get_logger().info(f"room {values.seed}: {', '.join(thing.name for thing in self._world.room.things)}")

    def close(self) -> None:
        self._world.close()

    def _build(self, seed: int, kind: str) -> World:
        values = self._table.values
        world = World(make_room(seed, kind), values.width, values.height, values.multisampling)
        world.image()  # build the renderer now, to report a missing driver at once and have no late first frame
        return world

    def _now(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _subscribe(self, message_type: type) -> Subscription:
        # A best-effort subscriber hears reliable publishers too, and an old command must not be delivered late.
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        return self.create_subscription(message_type, "cmd_vel", self._on_command, qos)

    def _follow_command_type(self) -> None:
        """Subscribe to Twist or TwistStamped, as the publishers do: a participant cannot have both on one topic."""
        spoken = {info.topic_type for info in self.get_publishers_info_by_topic("cmd_vel")}
        names = {Twist: "geometry_msgs/msg/Twist", TwistStamped: "geometry_msgs/msg/TwistStamped"}
        if names[self._command_type] in spoken:
            return
        for message_type, name in names.items():
            if name in spoken:
                self.destroy_subscription(self._subscription)
                self._subscription = self._subscribe(message_type)
                self._command_type = message_type
                self.get_logger().info(f"cmd_vel is a {name}")

    def _on_command(self, message: Twist | TwistStamped) -> None:
        twist = message.twist if isinstance(message, TwistStamped) else message
        try:
            self._world.drive(twist.linear.x, twist.angular.z)
        except ValueError as error:
            self.get_logger().error(f"{error}: the wheels stop", throttle_duration_sec=5.0)
            self._world.drive(0.0, 0.0)
        self._command_at = time.monotonic()  # the wheels must stop even if the clock is set back

    def _on_reset(
        self, request: ResetSimulation.Request, response: ResetSimulation.Response
    ) -> ResetSimulation.Response:
        try:
            world = self._build(request.seed, request.kind or self._table.values.kind)
        except (ValueError, OSError) as error:
            response.message = str(error)
            return response
        self._world.close()
        self._world = world
        self._last = self._now()
        response.success = True
        response.message = f"room {request.seed}: {', '.join(thing.name for thing in world.room.things)}"
        return response

    def _on_tick(self) -> None:
        now = self._now()
        if time.monotonic() - self._command_at > self._table.values.cmd_vel_timeout:
            self._world.drive(0.0, 0.0)
        elapsed, self._last = min(now - self._last, MAX_LAG), now
        if elapsed <= 0:  # the clock was set back
            return
        self._world.step(elapsed)
        stamp = self.get_clock().now().to_msg()
        linear, angular = self._world.speed
        self._odometry_publisher.publish(_odometry(stamp, "odom", self._world.odometry, linear, angular))
        self._truth_publisher.publish(_odometry(stamp, "map", self._world.pose, linear, angular))
        self._collisions_publisher.publish(UInt32(data=self._world.collisions))
        image = self._image(stamp, "rgb8", self._world.image())
        self._image_publisher.publish(image)
        calibration = CameraCalibration.pinhole(image.width, image.height, self._world.field_of_view)
        self._info_publisher.publish(camera_info(calibration, image.header))
        rate = self._table.values.depth_rate
        if self._depth_publisher and time.monotonic() - self._depth_at >= 1.0 / rate:
            self._depth_at = time.monotonic()
            self._depth_publisher.publish(self._image(stamp, "32FC1", self._world.depth()))

    def _image(self, stamp: Time, encoding: str, pixels: np.ndarray) -> Image:
        height, width = pixels.shape[:2]
        image = Image(encoding=encoding, height=height, width=width, step=pixels.nbytes // height)
        image.is_bigendian = sys.byteorder == "big"
        image.header.stamp = stamp
        image.header.frame_id = self._table.values.camera_frame
        image.data = array.array("B", pixels.tobytes())  # assigning an ndarray takes a hundred times longer
        return image


def _odometry(stamp: Time, frame: str, pose: RobotPose, linear: float, angular: float) -> Odometry:
    message = Odometry(child_frame_id="base_link")
    message.header.stamp = stamp
    message.header.frame_id = frame
    message.pose.pose.position.x, message.pose.pose.position.y = pose.x, pose.y
    message.pose.pose.orientation.z = math.sin(pose.yaw / 2)
    message.pose.pose.orientation.w = math.cos(pose.yaw / 2)
    message.twist.twist.linear.x, message.twist.twist.angular.z = linear, angular
    return message


def main() -> int:
    return run(Simulator)


if __name__ == "__main__":
    sys.exit(main())
