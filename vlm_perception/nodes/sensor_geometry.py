"""Geometry of the camera and the laser: from CameraInfo and TF if they are there, else from the parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from builtin_interfaces.msg import Time
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo

from vlm_perception.navigation.camera_info import CameraInfoError, field_of_view
from vlm_perception.navigation.mounting import MountingError, Transform, camera_mounting, scan_pose
from vlm_perception.navigation.settings import NavigationSettings
from vlm_perception.nodes.transforms import NoTransformError, Transforms

PERIOD = 1.0
"""Time between two look-ups in TF [s]. The mounting of the sensors does not change."""
DISAGREE = 0.05
"""Share by which the field of view of the parameter may differ from CameraInfo's. Beyond it one of them is wrong."""
ON_THE_FLOOR = "base_footprint"
"""The frame on the floor below the robot (REP 120). If it exists, the camera's height is measured from it, since
base_link may be above the floor."""
PARAMETERS = "from the parameters"


class SensorGeometry:
    """The geometry of the sensors by ROS, for the settings. `on_change` is called when it may have changed.

    `values` and `problem` tell the diagnostics what is used and what is wrong.
    """

    def __init__(self, node: Node, transforms: Transforms, base_frame: str, on_change: Callable[[], None]) -> None:
        self.values: dict[str, str] = {}
        self.problem: str | None = None
        self._base_frame = base_frame
        self._on_change = on_change
        self._info: CameraInfo | None = None
        self._field: float | None = None
        self._refused: str | None = None
        self._image_frame = ""
        self._scan_frame = ""
        self._transforms = transforms
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._subscription = node.create_subscription(CameraInfo, "camera/camera_info", self._take_info, newest)
        node.create_timer(PERIOD, on_change, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _take_info(self, info: CameraInfo) -> None:
        before, self._info = self._info, info
        info.header.stamp = Time()  # one comes with every image; only a different one is a change
        if info == before:
            return
        self._field = self._refused = None
        try:
            self._field = field_of_view(info)
        except CameraInfoError as error:
            self._refused = str(error)
        self._on_change()

    @property
    def _info_frame(self) -> str:
        return self._info.header.frame_id if self._info else ""

    def see_image(self, frame: str) -> None:
        """Note the frame_id of the camera's images."""
        if frame != self._image_frame:
            self._image_frame = frame
            self._on_change()

    def see_scan(self, frame: str) -> None:
        """Note the frame_id of the laser's scans."""
        if frame != self._scan_frame:
            self._scan_frame = frame
            self._on_change()

    def apply(self, parameters: NavigationSettings) -> NavigationSettings:
        """Return the `parameters`, replaced by the geometry that ROS provides."""
        problems: list[str] = []
        camera, depth = parameters.camera, parameters.depth
        camera = replace(camera, field_of_view=self._field_of_view(camera.field_of_view, problems))
        mounted, base = None, ""
        try:
            frame = self._image_frame or self._info_frame
            if not frame:
                raise NoTransformError("the frame_id of the images is not known")
            mounted, base = self._from_floor(frame)
            height, pitch = camera_mounting(mounted)
            camera = replace(camera, height=height, pitch=pitch)
            source = f"from TF ({base} to {frame})"
        except NoTransformError as error:
            source = f"{PARAMETERS}: {error}"
        except MountingError as error:
            mounted, source = None, f"{PARAMETERS}: {error}"
            problems.append(f"the camera's mounting of TF is not used: {error}")
        self.values["camera mounting"] = f"{_short(camera.height)} m high, {_short(camera.pitch)} rad down, {source}"
        if depth.scan:
            pose, source = self._scan_pose(mounted, base, problems)
            depth = replace(depth, scan_pose=pose or depth.scan_pose)
            ahead, left, turned = map(_short, depth.scan_pose)
            at = f"{ahead} m ahead, {left} m left, {turned} rad turned left"
            self.values["laser pose"] = f"{at} of the camera, {source}"
        self.problem = "; ".join(problems) or None
        return replace(parameters, camera=camera, depth=depth)

    def _field_of_view(self, parameter: float, problems: list[str]) -> float:
        """Return the field of view to use [rad]."""
        topic, own, images = self._subscription.topic_name, self._info_frame, self._image_frame
        refused = self._refused
        if self._field and own and images and own != images:
            refused = f"it is about the frame {own!r:.100}, the images are of {images!r:.100}: remap it"
        if self._field is None or refused:
            why = f"{topic} is not used: {refused}" if refused else f"nothing comes on {topic}"
            self.values["field of view"] = f"{parameter:.3g} rad, {PARAMETERS}: {why}"
            if refused:
                problems.append(why)
            return parameter
        self.values["field of view"] = f"{self._field:.3g} rad, from {topic}"
        if not math.isclose(self._field, parameter, rel_tol=DISAGREE):
            problems.append(
                f"camera.field_of_view is {parameter:.3g} rad, but {self._field:.3g} rad by {topic}, which is used: "
                "set the parameter to that, or calibrate the camera"
            )
        return self._field

    def _scan_pose(
        self, camera: Transform | None, base: str, problems: list[str]
    ) -> tuple[tuple[float, float, float] | None, str]:
        """Return the pose of the laser by TF, None if TF does not have it, and its source in words."""
        if camera is None:
            return None, f"{PARAMETERS}: TF does not tell the camera's mounting"
        try:
            if not self._scan_frame:
                raise NoTransformError("the frame_id of the scans is not known")
            return scan_pose(
                camera, self._transforms.find(base, self._scan_frame)
            ), f"from TF ({base} to {self._scan_frame})"
        except NoTransformError as error:
            return None, f"{PARAMETERS}: {error}"
        except MountingError as error:
            problems.append(f"the laser's mounting of TF is not used: {error}")
            return None, f"{PARAMETERS}: {error}"

    def _from_floor(self, frame: str) -> tuple[Transform, str]:
        """Return the pose of `frame` in the frame on the floor, or else in the robot's, and the name of that frame."""
        floor = f"{self._base_frame.rpartition('/')[0]}/{ON_THE_FLOOR}".lstrip("/")
        try:
            return self._transforms.find(floor, frame), floor
        except NoTransformError:
            return self._transforms.find(self._base_frame, frame), self._base_frame


def _short(value: float) -> str:
    """Return a length or an angle as text, without the rounding noise of rotations."""
    return f"{round(value, 3) + 0.0:g}"
