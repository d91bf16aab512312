"""The camera: a video file, a folder of pictures, a webcam or a network stream, published as camera/image_raw."""

from __future__ import annotations

import array
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.task import Future
from sensor_msgs.msg import Image

from vlm_perception.nodes.diagnostics import Diagnostics, Health, Level
from vlm_perception.nodes.parameters import ParameterTable, parameter
from vlm_perception.nodes.run import run

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
RETRY = (0.5, 10.0)
"""First and longest pause before a live source is opened again [s]."""
SILENCE = 5.0
"""A network stream that says nothing for this long is opened again [s]."""
FOLDER_RATE = 10.0
"""A folder of pictures has no rate of its own [Hz]."""


@dataclass(frozen=True)
class Parameters:
    """The parameters of the camera."""

    source: str = parameter(
        "0", "Video file, folder of pictures, number or path of a webcam (0, /dev/video0), or URL (rtsp://...)"
    )
    rate: float = parameter(
        0.0,
        "Pictures per second: a file plays faster or slower, of a camera some are left out; 0 is its own",
        unit="Hz",
        minimum=0.0,
        maximum=1000.0,
    )
    loop: bool = parameter(False, "Start a file or folder again at its end; otherwise the node ends", dynamic=True)
    frame_id: str = parameter("camera_optical_frame", "Frame of the pictures (REP 103: z forward, x right, y down)")

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise ValueError("parameter source is empty, expected a video file, a folder, a webcam or a URL")


class SourceError(OSError):
    """A source that cannot be opened or read; the message says why."""


class Camera(Node):
    """See the module. A thread captures and publishes. SourceError when a file or folder cannot be played."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("camera", **node_arguments)
        self._table = ParameterTable(self, Parameters)
        self._source = self._table.values.source
        self._live = is_live(self._source)
        if not self._live:
            with open_source(self._source) as (pictures, _):
                if next(pictures, None) is None:
                    raise SourceError(f"{self._source} has no picture that can be read")
        self.finished = Future()
        self._stopping = threading.Event()
        self._due = 0.0
        self._published = 0
        self._problem = "opening the source"
        self._published_at = time.monotonic()
        self._counted = (time.monotonic(), 0)
        self._publisher = self.create_publisher(Image, "camera/image_raw", qos_profile_sensor_data)
        Diagnostics(self, self._health)
        self._thread = threading.Thread(target=self._capture, name="capture", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop capturing and let the device go."""
        self._stopping.set()
        self._thread.join(timeout=SILENCE + 1)

    def _capture(self) -> None:
        pause = RETRY[0]
        while not self._stopping.is_set():
            before = self._published
            try:
                self._play()
                problem = f"{shown(self._source)} ended"
            except Exception as error:  # whatever a driver does, the node tells it and tries again
                problem = " ".join(str(error).split())
            if self._stopping.is_set():
                return
            if self._live:
                self._problem = problem
                pause = RETRY[0] if self._published > before else min(2 * pause, RETRY[1])
                self.get_logger().warning(f"{problem}; trying again in {pause:g} s", throttle_duration_sec=RETRY[1])
                self._stopping.wait(pause)
            elif self._published == before or not self._table.values.loop:
                self.get_logger().info(f"{problem} after {self._published} pictures")
                self.finished.set_result(0 if self._published > before else 1)
                return

    def _play(self) -> None:
        """Publish the source until it ends."""
        with open_source(self._source) as (pictures, own_rate):
            rate = self._table.values.rate or (0.0 if self._live else own_rate)
            for picture in pictures:
                now = time.monotonic()
                if self._live and now < self._due:
                    continue  # the world goes on: what is not due is dropped, not delayed
                if self._stopping.wait(max(0.0, self._due - now)):
                    return
                now = time.monotonic()
                if rate:
                    self._due = max(self._due, now - 1 / rate) + 1 / rate
                self._publish(picture)

    def _publish(self, picture: np.ndarray) -> None:
        message = Image(height=picture.shape[0], width=picture.shape[1], encoding="bgr8", step=picture.shape[1] * 3)
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = self._table.values.frame_id
        message.data = array.array("B", picture.tobytes())  # a hundred times faster than the bytes themselves
        self._publisher.publish(message)
        self._published += 1
        self._published_at = time.monotonic()
        self._problem = ""

    def _health(self) -> Health:
        (since, before), now = self._counted, time.monotonic()
        self._counted = (now, self._published)
        figures = {
            "source": shown(self._source),
            "pictures": self._published,
            "pictures per second": (self._published - before) / max(now - since, 1e-3),
        }
        problem = self._problem
        if not problem and self._live and now - self._published_at > SILENCE + 1:
            problem = f"{shown(self._source)} has given no picture for {now - self._published_at:.0f} s: is it frozen?"
        return Health(Level.ERROR if problem else Level.OK, problem or "publishing", figures)


def is_live(source: str) -> bool:
    """Whether `source` goes on without us, so that it is worth opening again: a device or a stream."""
    return source.isdigit() or "://" in source or source.startswith("/dev/")


def shown(source: str) -> str:
    """`source` without the password that a URL may carry."""
    return re.sub(r"://[^/@]*@", "://***@", source)


@contextmanager
def open_source(source: str) -> Iterator[tuple[Iterator[np.ndarray], float]]:
    """Open `source` and give its pictures, BGR uint8 (height, width, 3), and its rate [Hz]; or SourceError."""
    path = Path(source).expanduser()
    if not is_live(source):
        if not path.exists():
            raise SourceError(
                f"{source} does not exist, expected a video file, a folder of pictures, a webcam or a URL"
            )
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
            if not files:
                raise SourceError(f"the folder {source} has no pictures, expected files like {', '.join(PICTURES)}")
            yield (picture for file in files if (picture := cv2.imread(str(file))) is not None), FOLDER_RATE
            return
    capture = _open_capture(source)
    try:
        if not capture.isOpened():
            raise SourceError(
                f"{shown(source)} cannot be opened as a {'camera or stream' if is_live(source) else 'video'}"
            )
        rate = capture.get(cv2.CAP_PROP_FPS)
        yield _read(capture), rate if 0 < rate < 1000 else 30.0
    finally:
        capture.release()


def _open_capture(source: str) -> cv2.VideoCapture:
    if source.isdigit() or source.startswith("/dev/"):
        capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # a buffer shows the past
        return capture
    if "://" in source:
        limits = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            round(1000 * SILENCE),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            round(1000 * SILENCE),
        ]
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
    return cv2.VideoCapture(str(Path(source).expanduser()))


def _read(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        good, picture = capture.read()
        if not good:
            return
        yield picture


def main() -> int:
    """Run the node."""
    return run(Camera)
