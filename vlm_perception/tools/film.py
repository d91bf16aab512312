"""A spectator with a camera: it films what the robot sees, thinks and does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from geometry_msgs.msg import Twist
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import String

from vlm_perception.msg import SceneLabel, TargetSighting
from vlm_perception.perception.image_message import decode
from vlm_perception.tools.images import AnsweredQuestion, Video, annotate
from vlm_perception.tools.spectator import Spectator
from vlm_perception.training.prompts import LABEL_PROMPT

RATE = 10.0  # [Hz]


class Film(Spectator):
    """Films the search for `target` into the file `video`; `frames` and `labels` count what came meanwhile."""

    def __init__(self, video: Path, target: str, say: Callable[[str], None], check: Callable[[], None]):
        super().__init__(say, check)
        self.frames = self.labels = 0
        self.seconds = 0.0
        self._target_name = target
        self._video = Video(video, RATE)
        self._next = 0.0
        self._image: Image | None = None
        self._label: SceneLabel | None = None
        self._sighting: TargetSighting | None = None
        self._command = (0.0, 0.0)
        self.create_subscription(Image, "camera/image_raw", self._on_image, qos_profile_sensor_data)
        self.create_subscription(SceneLabel, "scene_label", self._on_label, 10)
        self.create_subscription(String, "scene_description", self._on_description, 10)
        self.create_subscription(Twist, "cmd_vel", self._on_command, 10)

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
        )
