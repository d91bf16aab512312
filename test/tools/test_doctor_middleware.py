"""What the doctor finds about ROS, its middleware and their settings."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from findings import GREEN, RED, YELLOW, says
from paths import ROOT

pytest.importorskip("rclpy")


from vlm_perception.nodes.profile import VARIABLES
from vlm_perception.tools.checks import middleware

pytestmark = pytest.mark.ros

PROFILE = ROOT / "config" / "fastdds.xml"


def test_ros_is_here():
    assert says(middleware.ros({}), (GREEN, r"ROS: .*rmw_fastrtps_cpp, Python 3\."))


def test_two_ros_in_one_shell():
    assert says(middleware.ros({"AMENT_PREFIX_PATH": "/x:/opt/ros/jazzy"}), (YELLOW, "/opt/ros/jazzy is sourced.*mix"))


@pytest.mark.parametrize(
    ("error", "installed", "words"),
    [
        (ModuleNotFoundError("-", name="rclpy"), [], "no rclpy and no ROS distribution -> make setup"),
        (ModuleNotFoundError("-", name="rclpy"), ["jazzy"], "jazzy is installed, and not sourced -> source "),
        (ImportError("no _rclpy_pybind11"), [], "cannot be imported by Python 3.*pybind11 -> the Python that"),
    ],
)
def test_no_ros_or_one_that_does_not_work(monkeypatch, tmp_path, error, installed, words):
    for name in installed:
        (tmp_path / name).mkdir()
        (tmp_path / name / "setup.bash").touch()
    monkeypatch.setattr(middleware, "DISTRIBUTIONS", tmp_path)

    class NotThere:
        def find_spec(self, name, path=None, target=None):
            if name == "rclpy":
                raise error

    monkeypatch.delitem(sys.modules, "rclpy")
    monkeypatch.setattr(sys, "meta_path", [NotThere(), *sys.meta_path])
    assert says(middleware.ros({}), (RED, words))


def test_a_middleware_that_is_not_there():
    words = "RMW_IMPLEMENTATION is 'rmw_x_cpp', which cannot be loaded .*-> unset RMW_IMPL.*ros-\\$ROS_DISTRO-rmw-x-cpp"
    assert says(middleware.ros({"RMW_IMPLEMENTATION": "rmw_x_cpp"}), (RED, words))
    assert says(middleware.ros({"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}), (GREEN, "rmw_fastrtps_cpp"))


def test_messages_that_were_not_built(monkeypatch):
    monkeypatch.setitem(sys.modules, "vlm_perception.msg", None)
    assert says(middleware.ros({}), (RED, "messages of this package are not there.*-> colcon build"))


@pytest.mark.parametrize(
    ("environment", "level", "words"),
    [
        ({}, GREEN, "ROS_DOMAIN_ID 0, this network"),
        ({"ROS_DOMAIN_ID": "7", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, GREEN, "ROS_DOMAIN_ID 7, this machine"),
        ({"ROS_DOMAIN_ID": "robot"}, RED, "'robot', expected a number"),
        ({"ROS_DOMAIN_ID": "233"}, RED, "'233', expected a number"),
        ({"ROS_DOMAIN_ID": "150"}, YELLOW, "150, whose ports Linux gives"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "WORLD"}, YELLOW, "'WORLD', which is none"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "off"}, RED, "do not find each other"),
        ({"ROS_LOCALHOST_ONLY": "1"}, YELLOW, "deprecated.*unset ROS_LOCALHOST_ONLY"),
    ],
)
def test_who_can_be_heard(environment, level, words):
    assert says(middleware.domain(environment), (level, words))


def test_the_shipped_profile_is_good_and_a_shell_needs_none():
    for name in VARIABLES:
        assert says(middleware.profile({name: str(PROFILE)}), (GREEN, "64 MiB of shared memory"))
    assert says(middleware.profile({}), (GREEN, r"none in this shell.*: export FASTRTPS\S+=\S+/config/fastdds.xml"))


def test_a_profile_that_does_not_help(tmp_path):
    file = tmp_path / "profile.xml"
    variable = {"FASTRTPS_DEFAULT_PROFILES_FILE": str(file)}
    assert says(middleware.profile(variable), (RED, "cannot be read: .*No such file"))
    file.write_text("<dds><profiles>")
    assert says(middleware.profile(variable), (RED, "cannot be read: no element|cannot be read: unclosed"))
    file.write_text(PROFILE.read_text().replace("67108864", "1048576"))
    assert says(middleware.profile(variable), (YELLOW, "1 MiB of shared memory and a message 16 MiB"))
    file.write_text(PROFILE.read_text().replace("SHM", "UDPv4"))
    assert says(middleware.profile(variable), (YELLOW, "0 MiB of shared memory"))


@pytest.mark.parametrize(("left", "level"), [(63, RED), (255, YELLOW), (257, GREEN)])
def test_room_for_shared_memory(monkeypatch, left, level):
    usage = SimpleNamespace(disk_usage=lambda folder: (64 << 20, 0, left << 20))
    monkeypatch.setattr(middleware, "shutil", usage)
    assert says(middleware.shared_memory(Path("/dev/shm")), (level, f"{left} of 64 MiB of /dev/shm are free"))


def test_no_shared_memory_at_all(tmp_path):
    assert says(middleware.shared_memory(tmp_path / "shm"), (YELLOW, "there is no shared memory.*--ipc=host"))


def test_another_middleware_needs_a_receive_buffer(tmp_path):
    file = tmp_path / "rmem_max"
    file.write_text("212992\n")
    assert says(middleware.network_buffer("rmw_cyclonedds_cpp", file), (YELLOW, "208 KiB.*sysctl -w net.core.rmem_max"))
    file.write_text("33554432\n")
    assert says(middleware.network_buffer("rmw_cyclonedds_cpp", file), (GREEN, "32768 KiB"))
    assert middleware.network_buffer("rmw_cyclonedds_cpp", tmp_path / "nowhere") == []


def test_fast_dds_needs_a_receive_buffer_between_machines(tmp_path, monkeypatch):
    size = int(re.search(r"<receiveBufferSize>(\d+)</receiveBufferSize>", PROFILE.read_text())[1])
    assert size >= middleware.ENOUGH_BUFFER
    monkeypatch.setattr(middleware, "RECEIVE_BUFFER", tmp_path / "rmem_max")
    for value, words in ((212992, (YELLOW, "208 KiB .net.core.rmem_max.*sysctl")), (size, (GREEN, "4096 KiB"))):
        (tmp_path / "rmem_max").write_text(str(value))
        environment = {"FASTRTPS_DEFAULT_PROFILES_FILE": str(PROFILE)}
        assert says(middleware.transport(environment)[-1:], words)
        environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        assert "rmem_max" not in str(middleware.transport(environment))
