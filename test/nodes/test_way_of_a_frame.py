"""From the camera to the answer as a user sees it: what is lost on the way, and where the time goes."""

import json
import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("vlm_perception.srv", reason="the interfaces are not built", exc_type=ImportError)

from classifier_world import World
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition

from vlm_perception.nodes.camera_topics import missing_profile

BIG_CAMERA = """
import array, time
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("big_camera")
publisher = node.create_publisher(Image, "camera/image_raw", qos_profile_sensor_data)
message = Image(height=720, width=1280, encoding="rgb8", step=3840, data=array.array("B", bytes(720 * 3840)))
while True:
    message.header.stamp = node.get_clock().now().to_msg()
    publisher.publish(message)
    time.sleep(1 / 30)
"""
PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"


def values_of(status):
    return {pair.key: pair.value for pair in status.values}


def test_images_that_the_middleware_loses_are_counted_and_the_user_learns_what_to_do(ros, monkeypatch):
    monkeypatch.delenv(PROFILE, raising=False)
    world = World(ros)
    world.timer.cancel()
    camera = subprocess.Popen([sys.executable, "-c", BIG_CAMERA], env=dict(os.environ))
    try:
        status = world.until_health("images lost", DiagnosticStatus.WARN)
    finally:
        camera.kill()
        camera.wait()
    assert "were lost before they reached this node" in status.message
    assert f"set {PROFILE} in every process, above all the camera's" in status.message
    assert int(values_of(status)["images lost on the way"]) > 0


def test_a_slow_model_loses_nothing_on_the_way(ros):
    world = World(ros)
    world.until_label("clear")
    world.model.gate.clear()
    ros.spin(1.0)
    world.model.gate.set()
    values = values_of(world.until_health("looking", DiagnosticStatus.OK))
    assert values["images lost on the way"] == "0" and int(values["images replaced by newer ones"]) > 5


def test_what_the_profile_lacks_is_said_only_to_those_who_lack_it(tmp_path, monkeypatch):
    monkeypatch.delenv(PROFILE, raising=False)
    assert re.search(r" /\S+share/vlm_perception/config/fastdds.xml", missing_profile())
    monkeypatch.setenv(PROFILE, str(tmp_path / "none.xml"))
    assert "none.xml' names no file" in missing_profile()
    (tmp_path / "none.xml").write_text("<dds/>")
    assert missing_profile() is None


def test_the_diagnostics_tell_where_the_time_goes_and_the_trace_file_is_json(ros, tmp_path):
    trace = tmp_path / "trace.json"
    world = World(ros, trace_file=str(trace))
    world.until_label("clear")
    status = world.until_health("looking", DiagnosticStatus.OK)
    for stage in ("age", "wait", "decode", "answer", "describe", "publish", "whole"):
        p50, p95, p99 = map(float, values_of(status)[f"time, {stage}, p50 p95 p99 [ms]"].split())
        assert 0 <= p50 <= p95 <= p99 < 60_000
    assert world.lifecycle(Transition.TRANSITION_DEACTIVATE) and world.lifecycle(Transition.TRANSITION_CLEANUP)
    events = json.loads(trace.read_text())
    stamps = {sec * 10**9 + nanosec for sec, nanosec in world.sent}
    assert {e["name"] for e in events} >= {"received", "wait", "decode", "answer", "describe", "publish"}
    assert all(e["args"]["stamp"] in stamps for e in events if e["ph"] != "M")


def test_a_trace_file_that_cannot_be_written_is_told_and_is_chosen_at_the_start_only(ros, tmp_path):
    world = World(ros, trace_file=str(tmp_path))
    assert world.state() == "unconfigured"
    world.until_health(f"trace_file '{tmp_path}' cannot be written", DiagnosticStatus.ERROR)
    assert not ros.set_parameter("classifier", "trace_file", str(tmp_path / "trace.json")).successful
