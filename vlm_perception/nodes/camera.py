"""The node `camera`: publishes a video, a folder of images, a webcam or a network stream as camera/image_raw."""

from __future__ import annotations

import array
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, Image

from vlm_perception.address import shown, without_secrets
from vlm_perception.nodes.camera_info import calibration_at, camera_info
from vlm_perception.nodes.diagnostics import Diagnostics, Health, Level
from vlm_perception.nodes.faults import Faults, one_line
from vlm_perception.nodes.parameters import ParameterTable
from vlm_perception.nodes.qos import IMAGES
from vlm_perception.nodes.run import run
from vlm_perception.parameters import START, parameter
from vlm_perception.perception.source import SILENCE, Source, SourceError, locate, open_source

RETRY = (0.5, 10.0)
"""First and longest pause before a live source is opened again [s]."""
LOOK_FOR_SUBSCRIBER = 0.1
"""Time between two checks for a subscriber [s]."""
SETTLE = 0.5
"""Time until a new subscriber receives every message [s]."""


@dataclass(frozen=True)
class Parameters:
    """The parameters of the camera."""

    source: str = parameter(
        "0",
        "Video file, folder of images, image, number or path of a webcam (0, /dev/video0), or address (rtsp://...)",
        when=START,
        shown=shown,
    )
    rate: float = parameter(
        0.0,
        "Rate of images. A recording plays faster or slower; a camera drops images. 0: the source's own rate",
        unit="Hz",
        minimum=0.0,
        maximum=1000.0,
        when=START,
    )
    loop: bool = parameter(False, "Repeat a recording. If false, the node ends with the recording")
    wait_for_subscriber: bool = parameter(
        True, "Start a recording only when somebody subscribes to camera/image_raw", when=START
    )
    frame_id: str = parameter(
        "camera_optical_frame", "frame_id of the images (REP 103: z forward, x right, y down)", when=START
    )
    camera_info_url: str = parameter(
        "",
        "File of the camera's calibration, as camera_calibration writes it (file:///path, package://package/path or a "
        "path), published as camera/camera_info; none if empty",
        when=START,
    )

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise ValueError("parameter source is empty, expected a video file, a folder, a webcam or an address")


class CameraNode(Node):
    """The node. A thread captures and publishes. Raises SourceError for a file or folder that cannot be played."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("camera", **node_arguments)
        self._table = ParameterTable(self, Parameters)
        self._source = self._table.values.source
        self._lasting = locate(self._source).lasting
        if not self._lasting:
            with open_source(self._source):
                pass
        url = self._table.values.camera_info_url.strip()
        self._calibration = calibration_at(url) if url else None
        self._uncalibrated: str | None = None
        self.finished = Future()
        self._faults = Faults(self.get_logger())
        self._stopping = threading.Event()
        self._due = 0.0
        self._begun = not self._table.values.wait_for_subscriber
        self._published = 0
        self._problem: str | None = "opening the source"
        self._waiting: str | None = None
        self._told = ""
        self._published_at = time.monotonic()
        self._counted = (time.monotonic(), 0)
        self._publisher = self.create_publisher(Image, "camera/image_raw", IMAGES)
        self._info_publisher = self.create_publisher(CameraInfo, "camera/camera_info", IMAGES) if url else None
        Diagnostics(self, self._health)
        self._thread = threading.Thread(target=self._capture, name="capture", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop capturing and release the device."""
        self._stopping.set()
        self._thread.join(timeout=SILENCE + 1)

    def _capture(self) -> None:
        pause = RETRY[0]
        while not self._stopping.is_set():
            before = self._published
            live = self._lasting
            try:
                with open_source(self._source, self._passed_over) as source:
                    live = source.live
                    self._tell(source)
                    if live or self._begun:
                        self._play(source)
                if not live and not self._begun:
                    self._wait_for_subscriber()
                    continue  # open it again: a server would have ended the connection
                problem = f"{shown(self._source)} ended"
            except Exception as error:  # for any error of a driver: log it and try again
                problem = one_line(without_secrets(str(error), self._source) or error)
            if self._stopping.is_set():
                return
            if live or (self._lasting and not self._published):
                self._problem = problem
                pause = RETRY[0] if self._published > before else min(2 * pause, RETRY[1])
                self.get_logger().warning(f"{problem}; trying again in {pause:g} s", throttle_duration_sec=RETRY[1])
                self._stopping.wait(pause)
            elif self._published == before or not self._table.values.loop:
                self.get_logger().info(f"{problem} after {self._published} images")
                self.finished.set_result(0 if self._published > before else 1)
                return

    def _tell(self, source: Source) -> None:
        """Log what is played, once."""
        words = str(source)
        if words != self._told:
            self._told = words
            waits = "" if source.live or self._begun else f"; waits for a subscriber of {self._publisher.topic_name}"
            self.get_logger().info(f"plays {words}{waits}")

    def _wait_for_subscriber(self) -> None:
        self._waiting = f"waiting for a subscriber of {self._publisher.topic_name} (wait_for_subscriber)"
        while not self._publisher.get_subscription_count() and not self._stopping.wait(LOOK_FOR_SUBSCRIBER):
            pass
        self._stopping.wait(SETTLE)
        self._begun, self._waiting = True, None

    def _passed_over(self, words: str) -> None:
        if self._stopping.is_set():
            raise SourceError("stopped")
        self._faults.add("corrupt image", without_secrets(words, self._source))

    def _play(self, source: Source) -> None:
        """Publish the images of `source` until it ends, those of a recording at its own times."""
        rate = self._table.values.rate
        last = None
        for image, stamp in source.images:
            now = time.monotonic()
            if source.live:
                if now < self._due:
                    continue  # drop a live image that is not due; a delayed one would be stale
            elif last is not None and not rate:
                self._due = max(self._due + stamp - last, now)  # a late image delays all that follow
            last = stamp
            if self._stopping.wait(max(0.0, self._due - now)):
                return
            if rate:
                self._due = max(self._due, time.monotonic() - 1 / rate) + 1 / rate
            self._publish(image)
        if not source.live and not rate and source.rate:
            self._due = max(self._due, time.monotonic()) + 1 / source.rate  # the pause before the recording repeats

    def _publish(self, image: np.ndarray) -> None:
        message = Image(height=image.shape[0], width=image.shape[1], encoding="rgb8", step=image.shape[1] * 3)
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = self._table.values.frame_id
        message.data = array.array("B", image.tobytes())  # assigning bytes takes a hundred times longer
        self._publisher.publish(message)
        self._publish_info(message)
        self._published += 1
        self._published_at = time.monotonic()
        self._problem = None

    def _publish_info(self, image: Image) -> None:
        """Publish the calibration for `image`, unless it is for images of another size."""
        if not (self._calibration and self._info_publisher):
            return
        calibrated = f"{self._calibration.width}x{self._calibration.height}"
        if calibrated == (size := f"{image.width}x{image.height}"):
            self._info_publisher.publish(camera_info(self._calibration, image.header))
            self._uncalibrated = None
        else:
            self._uncalibrated = f"camera_info_url is for images of {calibrated}, these are {size}: calibrate again"

    def _health(self) -> Health:
        (since, before), now = self._counted, time.monotonic()
        self._counted = (now, self._published)
        figures = {
            "source": shown(self._source),
            "images": self._published,
            "images per second": (self._published - before) / max(now - since, 1e-3),
            **self._faults.metrics(),
        }
        if self._waiting:
            return Health(Level.OK, self._waiting, figures)
        problem = self._problem
        if not problem and self._lasting and now - self._published_at > SILENCE + 1:
            problem = f"{shown(self._source)} has given no image for {now - self._published_at:.0f} s: is it frozen?"
        if problem:
            return Health(Level.ERROR, problem, figures)
        if words := self._uncalibrated or self._faults.recent:
            return Health(Level.WARN, words, figures)
        return Health(Level.OK, f"plays {self._told}", figures)


def main() -> int:
    """Run the node."""
    return run(CameraNode)
