"""The log says why nothing happens: once, when it lasts, and again only when it is new."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Log
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from vlm_perception.nodes import diagnostics
from vlm_perception.nodes.camera_topics import CameraTopics
from vlm_perception.nodes.diagnostics import HOLDS, Diagnostics, Health, Level, ReasonLog
from vlm_perception.nodes.graph import services_of
from vlm_perception.nodes.services import guarded
from vlm_perception.perception.settings import Settings
from vlm_perception.srv import ResetSimulation

LOOKING = Health(Level.OK, "looking")


class Lines(list):
    """A logger that keeps its lines."""

    def info(self, words):
        self.append(("info", words))

    def warning(self, words):
        self.append(("warning", words))

    def error(self, words):
        self.append(("error", words))


@pytest.fixture
def time(monkeypatch):
    """A clock that the test sets."""

    class Time:
        now = 0.0

        def monotonic(self):
            return self.now

    monkeypatch.setattr(diagnostics, "time", made := Time())
    return made


def lines_of(*healths):
    log = ReasonLog(lines := Lines())
    for health in healths:
        log.tell(health)
    return lines


def test_what_lasts_is_told_once_whatever_number_runs_in_it():
    silent = [Health(Level.ERROR, f"no image for {seconds}.5 s") for seconds in range(20)]
    assert lines_of(*silent, *[LOOKING] * 9) == [("error", f"no image for {HOLDS - 1}.5 s"), ("info", "looking")]


def test_a_healthy_start_and_a_moment_are_not_worth_a_line():
    loading = [Health(Level.WARN, "loading")] * (HOLDS - 1)
    assert lines_of(*loading, *[LOOKING] * 9, *loading, *[LOOKING] * 9) == []


def test_what_the_log_has_is_not_told_twice():
    assert lines_of(*[Health(Level.ERROR, "no model", logged=True)] * 9, *[LOOKING] * 9) == [("info", "looking")]


def test_what_comes_and_goes_does_not_flood_the_log(time):
    log = ReasonLog(lines := Lines())
    for second in range(120):
        time.now = float(second)
        late = second // 10 % 2 == 0
        log.tell(Health(Level.WARN, "late") if late else LOOKING)
    assert lines.count(("warning", "late")) == 3  # of six times
    assert len(lines) <= 8


def test_another_reason_is_told_at_once_it_lasts():
    lines = lines_of(*[Health(Level.WARN, "loading")] * 9, *[Health(Level.ERROR, "nobody publishes images")] * 9)
    assert lines == [("warning", "loading"), ("error", "nobody publishes images")]


def test_a_node_tells_it_in_its_log_and_waits_for_no_clock(ros):
    healths = ros.collect(DiagnosticArray, "/diagnostics")
    told = ros.collect(Log, "/rosout", 100)
    node = ros.add(Node("tested", parameter_overrides=[Parameter("use_sim_time", value=True)]))
    made = Diagnostics(node, lambda: LOOKING)
    ros.until(lambda: ros.node.count_publishers("/rosout") > 1, "log of the node")
    for _ in range(HOLDS):
        made.publish()
    words = "use_sim_time is set and nobody publishes /clock"
    ros.until(lambda: any(words in line.msg and line.name == "tested" for line in told), "line in the log")
    assert words in healths[-1].status[0].message and healths[-1].status[0].level == bytes([2])
    clock = Clock()
    clock.clock.sec = 5
    publisher = ros.node.create_publisher(Clock, "/clock", 1)
    ros.until(lambda: publisher.get_subscription_count(), "who goes by it")
    publisher.publish(clock)
    ros.until(lambda: healths[-1].status[0].message == "looking", "end of it")
    for _ in range(HOLDS):
        made.publish()
    ros.until(lambda: any(line.msg == "looking" for line in told), "line of another severity")


@pytest.mark.parametrize("simulated", [False, True])
def test_a_still_image_is_a_fault_of_a_camera_and_none_of_a_simulator(ros, simulated):
    node = ros.add(LifecycleNode("classifier"))
    topics = CameraTopics(node, "camera", "camera/image_raw", False, False)
    monitor = SimpleNamespace(form="32x24 rgb8", problem=None)
    topics.camera = SimpleNamespace(monitor=monitor, unchanged=60.0, doubt=None)
    ros.node.create_publisher(Image, "camera/image_raw", 1)
    if simulated:
        ros.node.create_service(ResetSimulation, "reset", lambda request, response: response)
    ros.until(lambda: node.count_publishers("camera/image_raw"), "camera")
    ros.until(lambda: topics.is_simulated == simulated, "what it is")
    health = topics.health
    assert health.level is (Level.OK if simulated else Level.WARN), health
    assert simulated or "has delivered the same image" in health.message


def test_the_advice_names_the_way_of_launch_and_that_of_run(ros):
    node = ros.add(LifecycleNode("classifier"))
    topics = CameraTopics(node, "camera", "camera/image_raw", False, False)
    topics.make_camera(Settings(), None)
    topics.open(lambda: None)
    words = topics.silence
    assert "ros2 launch: image_topic:=" in words and "ros2 run: -r camera/image_raw:=" in words


def test_a_node_that_the_graph_does_not_know_yet_offers_nothing(ros):
    node = ros.add(Node("asks"))
    assert services_of(node, "_NODE_NAME_UNKNOWN_", "_NODE_NAMESPACE_UNKNOWN_") == {}, "what Fast DDS gives at first"
    assert services_of(node, "nobody", "/") == {}
    ros.node.create_service(ResetSimulation, "reset", lambda request, response: response)
    ros.until(lambda: "/reset" in services_of(node, ros.node.get_name(), "/"), "service")


def test_a_check_that_fails_is_told_and_leaves_the_node_running(ros):
    def fail():
        raise RuntimeError("the graph is gone")

    made = Diagnostics(ros.add(Node("failing")), fail, {"front": fail})
    heard = ros.collect(DiagnosticArray, "/diagnostics")
    made.publish()
    ros.until(lambda: heard, "diagnostics")
    assert [status.level for status in heard[0].status] == [bytes([2])] * 2
    assert "the graph is gone" in heard[0].status[0].message


def test_what_a_callback_raises_is_told_and_goes_no_further():
    failures = []
    guarded(lambda number: 1 / number, failures.append)(0)
    assert isinstance(failures[0], ZeroDivisionError)
