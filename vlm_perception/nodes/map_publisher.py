"""What the navigator remembers, for others: `search_map`, `free_map` and `target_pose`."""

from __future__ import annotations

import array
import math
from collections.abc import Callable

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, PoseWithCovariance, PoseWithCovarianceStamped, Quaternion
from geometry_msgs.msg import Pose as PoseMessage
from nav_msgs.msg import MapMetaData, OccupancyGrid
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Header

from vlm_perception.navigation.grid import CELL
from vlm_perception.navigation.map_view import GridView, TargetPose, belief_grid, free_grid, target_pose
from vlm_perception.navigation.motion import Pose, placed
from vlm_perception.navigation.mounting import MountingError
from vlm_perception.navigation.pilot import Pilot
from vlm_perception.nodes.transforms import NoTransformError, Transforms

PERIOD = 1.0
"""Time between two messages of a grid [s]."""
MAP = "map"
"""The frame of what does not drift (REP 105)."""


class MapPublisher:
    """Publisher of the grids, once a second while somebody subscribes, and of the target's pose when that is known.

    All are in the frame `map` if TF has it, else in that of odometry. `guarded` wraps a callback so that its errors do
    not end the node; `now()` is the clock of the stamps [s].
    """

    def __init__(
        self,
        node: Node,
        pilot: Pilot,
        transforms: Transforms,
        now: Callable[[], float],
        guarded: Callable[[Callable[..., None]], Callable[..., None]],
    ) -> None:
        self._node = node
        self._pilot = pilot
        self._transforms = transforms
        self._now = now
        self.odometry_frame = ""
        """The frame_id of odometry; to be set with its messages."""
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._grids = {
            node.create_publisher(OccupancyGrid, "search_map", latched): lambda: belief_grid(pilot.map),
            node.create_publisher(OccupancyGrid, "free_map", latched): lambda: free_grid(pilot.map, pilot.time),
        }
        self._targets = node.create_publisher(PoseWithCovarianceStamped, "target_pose", 10)
        node.create_timer(PERIOD, guarded(self._publish_grids), clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _frame(self) -> tuple[str, Pose] | None:
        """Return the name of a fixed frame, and where the pilot's map begins in it; None without odometry."""
        origin = self._pilot.odometry.origin
        if origin is None or not self.odometry_frame:
            return None
        try:
            transform = self._transforms.find(MAP, self.odometry_frame)
            axes = transform.axes()
        except (NoTransformError, MountingError):
            return self.odometry_frame, origin
        x, y, _ = transform.translation
        return MAP, placed(Pose(x, y, math.atan2(axes[1, 0], axes[0, 0])), origin)

    def _publish_grids(self) -> None:
        wanted = [(publisher, grid) for publisher, grid in self._grids.items() if publisher.get_subscription_count()]
        if not wanted or (frame := self._frame()) is None:
            return
        stamp = self._node.get_clock().now().to_msg()
        for publisher, grid in wanted:
            publisher.publish(_grid_message(grid(), Header(stamp=stamp, frame_id=frame[0]), frame[1]))

    def tell_target(self, stamp: Time) -> None:
        """Publish where the target is by the answers up to the image of `stamp`, if that is known well enough."""
        known = self._pilot.remembered(self._now())
        if known is None or (frame := self._frame()) is None:
            return
        if (target := target_pose(known, self._pilot.odometry.pose)) is not None:
            self._targets.publish(_target_message(target.placed_at(frame[1]), Header(stamp=stamp, frame_id=frame[0])))


def _grid_message(grid: GridView, header: Header, origin: Pose) -> OccupancyGrid:
    height, width = grid.cells.shape
    corner = _pose_message(placed(origin, grid.corner))
    info = MapMetaData(map_load_time=header.stamp, resolution=CELL, width=width, height=height, origin=corner)
    return OccupancyGrid(header=header, info=info, data=array.array("b", grid.cells.tobytes()))


def _target_message(target: TargetPose, header: Header) -> PoseWithCovarianceStamped:
    covariance = np.zeros((6, 6))
    covariance[np.ix_((0, 1, 5), (0, 1, 5))] = target.covariance
    pose = PoseWithCovariance(pose=_pose_message(target.pose), covariance=covariance.ravel())
    return PoseWithCovarianceStamped(header=header, pose=pose)


def _pose_message(pose: Pose) -> PoseMessage:
    turn = Quaternion(z=math.sin(pose.heading / 2), w=math.cos(pose.heading / 2))
    return PoseMessage(position=Point(x=pose.x, y=pose.y), orientation=turn)
