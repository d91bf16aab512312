"""The camera node: files and folders become images with stamps; what is missing is one clear error."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

import itertools

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Log, ParameterEvent
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, Image

from vlm_perception.nodes import camera
from vlm_perception.nodes.camera import CameraNode
from vlm_perception.parameters import ParameterError
from vlm_perception.perception.camera_calibration import CalibrationError
from vlm_perception.perception.source import SourceError

COLOURS = [(10 * n, 5 * n, 200 - 10 * n) for n in range(10)]


@pytest.fixture
def folder(tmp_path):
    for number, colour in enumerate(COLOURS):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((24, 32, 3), colour[::-1], np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "0_broken.jpg").write_bytes(b"not an image either")
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
    return ros.add(CameraNode(parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()]))


def colour_of(message):
    return tuple(np.asarray(message.data).reshape(message.height, message.width, 3)[12, 16])


def stamp_of(message):
    return Time.from_msg(message.header.stamp).nanoseconds


def test_a_folder_becomes_images_in_order_with_rising_stamps_and_the_frame(ros, folder):
    images = ros.collect(Image, "camera/image_raw", qos_profile_sensor_data)
    node = make(ros, folder, rate=50.0, loop=True, frame_id="eye")
    ros.until(lambda: len(images) > 25, "images of two rounds")
    seen = [COLOURS.index(colour_of(m)) for m in images]
    assert sum((after - before) % 10 != 1 for before, after in itertools.pairwise(seen)) <= 1  # one lost at most
    stamps = [stamp_of(m) for m in images]
    assert stamps == sorted(set(stamps)) and abs(stamps[-1] - node.get_clock().now().nanoseconds) < 2e9
    assert {(m.encoding, m.height, m.width, m.step, m.header.frame_id) for m in images} == {("rgb8", 24, 32, 96, "eye")}


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 25.0), (10.0, 10.0)])
def test_a_video_plays_at_its_own_rate_or_at_the_given_one(ros, video, rate, expected):
    images = ros.collect(Image, "camera/image_raw", qos_profile_sensor_data)
    make(ros, video, rate=rate, loop=True)
    ros.until(lambda: len(images) >= 20, "images")
    seconds = (stamp_of(images[-1]) - stamp_of(images[0])) * 1e-9
    assert (len(images) - 1) / seconds == pytest.approx(expected, rel=0.25)


def test_a_recording_waits_for_a_subscriber_says_what_it_plays_and_ends(ros, video):
    log, health = ros.collect(Log, "/rosout"), ros.collect(DiagnosticArray, "/diagnostics")
    node = make(ros, video)
    ros.until(
        lambda: any("waiting for a subscriber" in status.message for m in health for status in m.status), "health"
    )
    assert f"plays the video {video}: 32x24, 25 Hz, 10 images; waits for a subscriber of /camera/image_raw" in str(log)
    assert not node.finished.done()
    images = ros.collect(Image, "camera/image_raw", QoSProfile(depth=20))  # reliable: none may be lost
    ros.until(node.finished.done, "end")
    ros.until(lambda: len(images) == 10, "all images")
    assert node.finished.result() == 0


def test_a_recording_need_not_wait(ros, video):
    node = make(ros, video, rate=200.0, wait_for_subscriber=False)
    ros.until(node.finished.done, "end")
    assert node.finished.result() == 0


def test_reliable_and_best_effort_subscribers_hear_the_camera_and_one_that_hangs_holds_up_nobody(ros, video):
    """As RViz, which asks for reliable, and stops reading."""
    code = (
        "import rclpy, time; from sensor_msgs.msg import Image; rclpy.init(); node = rclpy.create_node('hangs');"
        "node.create_subscription(Image, 'camera/image_raw', print, 1); print('there', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as hangs:
        hangs.stdout.readline()
        images = {
            name: ros.collect(Image, "camera/image_raw", qos)
            for name, qos in (("best effort", qos_profile_sensor_data), ("reliable", QoSProfile(depth=5)))
        }
        node = make(ros, video, rate=100.0, loop=True)
        ros.until(lambda: all(len(some) > 20 for some in images.values()), "images for both")
        hangs.send_signal(signal.SIGSTOP)
        before = {name: len(some) for name, some in images.items()}
        ros.until(lambda: all(len(some) > before[name] + 100 for name, some in images.items()), "images for both")
        hangs.kill()
    assert node._publisher.get_subscription_count()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("/no/such/video.mp4", ["/no/such/video.mp4", "does not exist", "expected"]),
        ("{}/notes.txt", ["notes.txt", "cannot be opened as a video"]),
        ("{}/empty", ["empty", "no images"]),
        ("{}/broken", ["broken", "no image that can be read"]),
        ("{}/pipe", ["pipe", "is no file"]),
    ],
)
def test_what_cannot_be_played_is_one_clear_error(ros, folder, source, words):
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe")
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


def test_an_argument_that_is_no_text_is_one_line_of_advice():
    code = "import sys; from vlm_perception.nodes.camera import main; sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", code, "--ros-args", "-p", b"source:=/data/caf\xe9.mp4"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 1
    assert "is not UTF-8" in result.stderr and "caf%E9" in result.stderr and "Traceback" not in result.stderr


def test_parameters_that_cannot_be_read_do_not_show_a_password():
    code = "import sys; from vlm_perception.nodes.camera import main; sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", code, "--ros-args", "-p", "source:='rtsp://me:secret@host/live"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 1 and "secret" not in result.stderr + result.stdout


class Stream(http.server.BaseHTTPRequestHandler):
    """A camera that is not there at first, then gives three images each time, the last of them damaged."""

    opened = 0

    def do_GET(self):
        Stream.opened += 1
        self.send_response(404 if Stream.opened == 1 else 200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        for number in range(3 if Stream.opened > 1 else 0):
            noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            data = cv2.imencode(".jpg", noise)[1].tobytes()
            data = data[: len(data) // 2] + b"\xff\xd9" if number == 2 else data
            self.wfile.write(b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data))
            self.wfile.write(data + b"\r\n")

    def log_message(self, *_):
        pass


def test_a_live_source_is_opened_again_and_its_password_is_told_nowhere(ros, monkeypatch, capfd):
    monkeypatch.setattr(camera, "RETRY", (0.05, 0.1))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Stream.opened = 0
    told = [
        ros.collect(DiagnosticArray, "/diagnostics"),
        ros.collect(Log, "/rosout"),
        ros.collect(ParameterEvent, "/parameter_events"),
    ]
    images = ros.collect(Image, "camera/image_raw", qos_profile_sensor_data)
    node = make(ros, f"http://me:sec@ret@127.0.0.1:{server.server_port}/live?token=secret")
    ros.until(lambda: Stream.opened >= 4 and images, "images after it came back")
    ros.until(lambda: len(told[0]) >= 2 and told[1], "health and log")
    server.shutdown()
    assert not node.finished.done()
    assert "corrupt image" in str(told[1]) and "opened as a camera or stream" in str(told[1])
    assert f"***@127.0.0.1:{server.server_port}/live?token=***" in str(told[0])
    words = str(told) + str(node.get_parameter("source").value) + "".join(capfd.readouterr())
    assert "sec@ret" not in words and "ret@" not in words and "secret" not in words


CALIBRATION = """
image_width: {width}
image_height: 24
camera_name: front
camera_matrix: {{rows: 3, cols: 3, data: [40, 0, 15.5, 0, 40, 11.5, 0, 0, 1]}}
distortion_model: plumb_bob
distortion_coefficients: {{rows: 1, cols: 5, data: [0.1, 0, 0, 0, 0]}}
rectification_matrix: {{rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}}
projection_matrix: {{rows: 3, cols: 4, data: [40, 0, 15.5, 0, 0, 40, 11.5, 0, 0, 0, 1, 0]}}
"""


def test_the_calibration_goes_with_each_image(ros, folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("calibration") / "my camera.yaml"
    file.write_text(CALIBRATION.format(width=32))
    images = ros.collect(Image, "camera/image_raw", qos_profile_sensor_data)
    infos = ros.collect(CameraInfo, "camera/camera_info", qos_profile_sensor_data)
    make(ros, folder, loop=True, rate=20.0, camera_info_url=f"file://{str(file).replace(' ', '%20')}")
    ros.until(lambda: any(info.header in [image.header for image in images] for info in infos), "info of an image")
    info = infos[0]
    assert (info.width, info.height, info.k[0], info.distortion_model) == (32, 24, 40.0, "plumb_bob")
    assert list(info.d) == [0.1, 0.0, 0.0, 0.0, 0.0] and info.p[6] == 11.5


def test_a_calibration_at_another_size_is_not_published_but_told(ros, folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("calibration") / "camera.yaml"
    file.write_text(CALIBRATION.format(width=64))
    images = ros.collect(Image, "camera/image_raw", qos_profile_sensor_data)
    infos = ros.collect(CameraInfo, "camera/camera_info", qos_profile_sensor_data)
    node = make(ros, folder, loop=True, rate=20.0, camera_info_url=str(file))
    ros.until(lambda: len(images) > 3, "images")
    ros.until(lambda: "for images of 64x24, these are 32x24" in node._health().message, "warning")
    assert not infos


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("package://no_such_package/camera.yaml", "there is no package 'no_such_package'"),
        ("http://example.com/camera.yaml", "expected file:///path/to/camera.yaml"),
        ("file:///nowhere/camera.yaml", "/nowhere/camera.yaml"),
        (__file__, "is no calibration"),
    ],
)
def test_a_calibration_that_is_none_stops_the_start_in_words(ros, folder, url, words):
    with pytest.raises((CalibrationError, OSError), match=words):
        make(ros, folder, camera_info_url=url)


def test_without_a_calibration_there_is_no_camera_info(ros, folder):
    make(ros, folder)
    assert not ros.node.count_publishers("camera/camera_info")
