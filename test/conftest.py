"""Helpers for tests with real nodes over real DDS. Each run has a ROS domain of its own."""

from __future__ import annotations

import fcntl
import gc
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Tiny models are slower with more threads, many times so where other tests wait for the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _own_domain() -> Any:
    """Lock one ROS domain for this process, so that no robot and no other test run can be heard."""
    for domain in random.sample(range(40, 100), 60):
        lock = open(Path(tempfile.gettempdir()) / f"vlm_perception_test_domain_{domain}", "w")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        return lock
    raise RuntimeError("no free ROS domain between 40 and 99: too many test runs at once")


_DOMAIN_LOCK = _own_domain()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark `ros` what stands in test/nodes or takes the fixture `ros`; other modules say it themselves."""
    for item in items:
        if item.path.parent.name == "nodes" or "ros" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ros)


class Ros:
    """The nodes under test and one node of the test itself, `node`, all spun in the test's thread."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        rclpy.init()
        self.executor = SingleThreadedExecutor()
        self.nodes: list[Any] = []
        self.clients: dict[str, Any] = {}
        self.node = self.add(rclpy.create_node("test"))

    def add(self, node: Any) -> Any:
        """Spin `node` from now on; it is closed and destroyed when the test ends."""
        self.executor.add_node(node)
        self.nodes.append(node)
        return node

    def remove(self, node: Any) -> None:
        """Close and destroy `node`, as its process would at its end."""
        self.nodes.remove(node)
        if hasattr(node, "close"):
            node.close()
        self.executor.remove_node(node)
        node.destroy_node()

    def spin(self, seconds: float) -> None:
        """Let everything run for `seconds`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
        """Spin until `condition()` is true and return its value; fail with `what` after `seconds`."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            left = end - time.monotonic()
            assert left > 0, f"no {what} within {seconds} s"
            self.executor.spin_once(timeout_sec=min(left, 0.05))
        return value

    def collect(self, message_type: type, topic: str, qos: Any = 10) -> list[Any]:
        """Return a list that grows with the messages of `topic`."""
        messages: list[Any] = []
        self.node.create_subscription(message_type, topic, messages.append, qos)
        return messages

    def call(self, service_type: type, service: str, request: Any, seconds: float = 20.0) -> Any:
        """Call a service and return its response."""
        if service not in self.clients:
            self.clients[service] = self.node.create_client(service_type, service)
        client = self.clients[service]
        self.until(client.service_is_ready, f"service {service}", seconds)
        future = client.call_async(request)
        self.until(future.done, f"response of {service}", seconds)
        return future.result()

    def set_parameter(self, node_name: str, name: str, value: Any) -> Any:
        """Set one parameter as `ros2 param set` does, and return the result (successful, reason)."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, f"{node_name}/set_parameters", request).results[0]

    def close(self) -> None:
        import rclpy

        for node in reversed(list(self.nodes)):
            self.remove(node)
        self.executor.shutdown()
        rclpy.shutdown()


@pytest.fixture
def empty_domain() -> Iterator[None]:
    """A ROS domain of the test's own, without what earlier tests left in the graph; to be named before `ros`."""
    before = os.environ["ROS_DOMAIN_ID"]
    lock = _own_domain()
    yield
    os.environ["ROS_DOMAIN_ID"] = before
    lock.close()


@pytest.fixture
def ros() -> Iterator[Ros]:
    """A fresh ROS context with an executor; skips where ROS is not installed."""
    pytest.importorskip("rclpy")
    ros = Ros()
    yield ros
    ros.close()
    gc.collect()  # a lifecycle node's services leave the network only when nothing refers to it any more
