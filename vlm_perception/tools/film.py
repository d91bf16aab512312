"""A spectator with a camera: it films what the robot sees, thinks and does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from geometry_msgs.msg import Twist
from nav_msgs.msg import OccupancyGrid, Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import String

from vlm_perception.msg import SceneLabel, TargetSighting
from vlm_perception.navigation.map_view import GridView
from vlm_perception.navigation.motion import Pose, placed, seen_from
from vlm_perception.navigation.odometry import pose_of
from vlm_perception.perception.image_message import decode
from vlm_perception.simulation.room import Room
from vlm_perception.simulation.world import World
from vlm_perception.tools.images import AnsweredQuestion, Video, annotate, draw_robot, lay_over
from vlm_perception.tools.spectator import Spectator
from vlm_perception.training.prompts import LABEL_PROMPT

RATE = 10.0  # [Hz]
ABOVE = (480, 360)  # [px], width and height of the view from above


class Film(Spectator):
    """Films the search for `target` in `room` into the file `video`; `frames` and `labels` count what came meanwhile.

    A view of the room from above shows where the robot believes that the target may be.
    """

    def __init__(self, video: Path, room: Room, target: str, say: Callable[[str], None], check: Callable[[], None]):
        super().__init__(say, check)
        with World(room, *ABOVE) as world:
            self._above = world.image("above").copy()
            self._pixel = world.pixel_from_above
        self.frames = self.labels = 0
        self.seconds = 0.0
        self._target_name = target
        self._video = Video(video, RATE)
        self._next = 0.0
        self._image: Image | None = None
        self._label: SceneLabel | None = None
        self._sighting: TargetSighting | None = None
        self._command = (0.0, 0.0)
        self._truth = self._odometry = Pose()
        self._map: tuple[str, GridView] | None = None
        self.create_subscription(Image, "camera/image_raw", self._on_image, qos_profile_sensor_data)
        self.create_subscription(SceneLabel, "scene_label", self._on_label, 10)
        self.create_subscription(String, "scene_description", self._on_description, 10)
        self.create_subscription(Twist, "cmd_vel", self._on_command, 10)
        self.create_subscription(Odometry, "odom", self._on_odometry, 10)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(OccupancyGrid, "search_map", self._on_map, latched)

    def _on_description(self, words: String) -> None:
        self.tell("describes", words.data)

    def close(self) -> None:
        self._video.close()
        super().close()

    def _on_image(self, message: Image) -> None:
        self._image = message
        self.frames += 1

    def _on_label(self, message: SceneLabel) -> None:
        self._label = message
        self.labels += 1
        self.tell("sees", message.label)

    def _on_sighting(self, message: TargetSighting) -> None:
        self._sighting = message
        super()._on_sighting(message)

    def _on_truth(self, message: Odometry) -> None:
        self._truth = pose_of(message)
        super()._on_truth(message)

    def _on_odometry(self, message: Odometry) -> None:
        self._odometry = pose_of(message)

    def _on_map(self, message: OccupancyGrid) -> None:
        cells = np.array(message.data, np.int8).reshape(message.info.height, message.info.width)
        at = message.info.origin
        heading = 2.0 * math.atan2(at.orientation.z, at.orientation.w)
        self._map = message.header.frame_id, GridView(cells, Pose(at.position.x, at.position.y, heading))

    @property
    def belief(self) -> GridView | None:
        """Where the target may be, in the room's frame; None while nobody knows."""
        if self._map is None:
            return None
        frame, grid = self._map
        # Odometry drifts: where its frame is now follows from where the robot is.
        odometry = Pose() if frame == "map" else placed(self._truth, seen_from(self._odometry, Pose()))
        return replace(grid, corner=placed(odometry, grid.corner))

    def _from_above(self) -> np.ndarray:
        """Return the room with the belief, the way so far and the robot."""
        image = self._above.copy()
        if (belief := self.belief) is not None:
            lay_over(image, belief, self._pixel)
        draw_robot(image, [self._pixel(*place) for place in self.seen.path], self._pixel, self._truth)
        return image

    def _on_command(self, message: Twist) -> None:
        self._command = (message.linear.x, message.angular.z)

    def shoot(self, clock: float) -> None:
        """Add an image when it is time for one; `clock` [s] is shown in it."""
        if self.seconds == 0.0:
            self.frames = self.labels = 0
        self.seconds = clock
        if clock >= self._next:
            self._next = max(self._next + 1 / RATE, clock - 1.0)
            if self._image is not None:
                self._video.add(self._drawn(self._image, clock))

    def _drawn(self, image: Image, clock: float) -> np.ndarray:
        sighting, state, label = self._sighting, self.seen.state, self._label
        answer = f"where is the {self._target_name}? "
        if sighting is not None:
            answer += f"{sighting.direction} {sighting.range}" if sighting.visible else "not in sight"
            answer += f" ({sighting.confidence:.2f})"
        return annotate(
            decode(image).image,
            state.state if state else "",
            state.reason if state else "",
            answer,
            AnsweredQuestion(
                LABEL_PROMPT,
                list(zip(label.choices, label.probabilities, strict=True)) if label else [],
                label.label if label else "",
            ),
            self._command,
            clock,
            self._from_above(),
        )
