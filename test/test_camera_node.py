"""The camera node: files and folders become pictures with stamps; what is missing is one clear error."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from rclpy.time import Time
from sensor_msgs.msg import Image

from vlm_perception.nodes import camera
from vlm_perception.nodes.camera import Camera, SourceError
from vlm_perception.nodes.parameters import ParameterError

COLOURS = [(10 * n, 5 * n, 200 - 10 * n) for n in range(10)]  # BGR


@pytest.fixture
def folder(tmp_path):
    for number, colour in enumerate(COLOURS):
        cv2.imwrite(str(tmp_path / f"{number:03}.png"), np.full((24, 32, 3), colour, np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "000_broken.jpg").write_bytes(b"not a picture either")
    return tmp_path


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (32, 24))
    for colour in COLOURS:
        writer.write(np.full((24, 32, 3), colour, np.uint8))
    writer.release()
    return path


def make(ros, source, **parameters):
    parameters = {"source": str(source), **parameters}
    return ros.add(Camera(parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()]))


def colour_of(message):
    return tuple(np.asarray(message.data).reshape(message.height, message.width, 3)[12, 16])


def stamp_of(message):
    return Time.from_msg(message.header.stamp).nanoseconds


def test_a_folder_becomes_pictures_in_order_with_rising_stamps_and_the_frame(ros, folder):
    pictures = ros.collect(Image, "camera/image_raw", qos_profile_sensor_data)
    node = make(ros, folder, rate=50.0, loop=True, frame_id="eye")
    ros.until(lambda: len(pictures) > 25, "pictures of two rounds")
    seen = [COLOURS.index(colour_of(m)) for m in pictures]
    assert (
        sum((after - before) % 10 != 1 for before, after in zip(seen, seen[1:], strict=False)) <= 1
    )  # one lost at most
    stamps = [stamp_of(m) for m in pictures]
    assert stamps == sorted(set(stamps)) and abs(stamps[-1] - node.get_clock().now().nanoseconds) < 2e9
    assert {(m.encoding, m.height, m.width, m.step, m.header.frame_id) for m in pictures} == {
        ("bgr8", 24, 32, 96, "eye")
    }


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 25.0), (10.0, 10.0)])
def test_a_video_plays_at_its_own_rate_or_at_the_given_one(ros, video, rate, expected):
    pictures = ros.collect(Image, "camera/image_raw", qos_profile_sensor_data)
    make(ros, video, rate=rate, loop=True)
    ros.until(lambda: len(pictures) >= 20, "pictures")
    seconds = (stamp_of(pictures[-1]) - stamp_of(pictures[0])) * 1e-9
    assert (len(pictures) - 1) / seconds == pytest.approx(expected, rel=0.25)


def test_at_the_end_of_a_file_the_node_ends(ros, video):
    node = make(ros, video, rate=200.0)
    ros.until(node.finished.done, "end")
    assert node.finished.result() == 0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("/no/such/video.mp4", ["/no/such/video.mp4", "does not exist", "expected"]),
        ("{}/notes.txt", ["notes.txt", "cannot be opened as a video"]),
        ("{}/empty", ["empty", "no pictures"]),
        ("{}/broken", ["broken", "no picture that can be read"]),
    ],
)
def test_what_cannot_be_played_is_one_clear_error(ros, folder, source, words):
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "a.png").write_bytes(b"nothing")
    with pytest.raises(SourceError) as error:
        make(ros, source.format(folder))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_bad_rate_is_refused(ros, video):
    with pytest.raises(ParameterError, match="rate"):
        make(ros, video, rate=-1.0)


def test_the_executable_ends_with_exit_code_1_for_a_missing_file():
    code = "import sys; from vlm_perception.nodes.camera import main; sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", code, "--ros-args", "-p", "source:=/no/such/video.mp4"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 1
    assert "/no/such/video.mp4 does not exist" in result.stderr and "Traceback" not in result.stderr


class Flaky:
    """A camera that is not there at first, gives three pictures each time, then breaks off."""

    opened = 0

    def __init__(self):
        Flaky.opened += 1
        self.left = 3 if Flaky.opened > 1 else 0

    def isOpened(self):  # noqa: N802
        return Flaky.opened > 1

    def read(self):
        self.left -= 1
        return self.left >= 0, np.zeros((4, 4, 3), np.uint8)

    def get(self, _):
        return 30.0

    def release(self):
        pass


def test_a_live_source_is_opened_again_and_its_password_is_not_told(ros, monkeypatch):
    monkeypatch.setattr(camera, "_open_capture", lambda source: Flaky())
    monkeypatch.setattr(camera, "RETRY", (0.05, 0.1))
    Flaky.opened = 0
    pictures = ros.collect(Image, "camera/image_raw", qos_profile_sensor_data)
    health = ros.collect(DiagnosticArray, "/diagnostics")
    node = make(ros, "rtsp://me:secret@camera/stream")
    ros.until(lambda: Flaky.opened >= 4 and pictures, "pictures after it came back")
    ros.until(lambda: health, "health")
    assert not node.finished.done()
    assert "secret" not in str(health) and "rtsp://***@camera/stream" in str(health)
