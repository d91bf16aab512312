"""One search with the real nodes, watched from outside: where the robot went, what it said, what it reached."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import Odometry
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import UInt32

from vlm_perception.msg import NavigationState, TargetSighting
from vlm_perception.simulation.room import Room
from vlm_perception.srv import ResetSimulation, SetSearchTarget
from vlm_perception.tools.episode import AT_REST, Episode, EpisodeRecord

SETTLING = 0.5  # [s] after a reset everything about the room before has come and gone


class Spectator(Node):
    """Listens, asks for resets and targets, and never moves anything itself.

    `say` is told what is new, in words; `check` is called again and again and raises when it is time to give up.
    A controller is named by the prefix of its `set_search_target` and `navigation_state`: "" is the navigator.
    """

    def __init__(self, say: Callable[[str], None], check: Callable[[], None], context: Context | None = None):
        super().__init__("spectator", context=context, enable_rosout=False)
        self._spinner = SingleThreadedExecutor(context=context)
        self._spinner.add_node(self)
        self._say = say
        self._check = check
        self.seen = EpisodeRecord()
        self._collisions = 0
        self._told: dict[str, str] = {}
        self._controller = ""
        self._targets: dict[str, Client] = {}
        self._health: dict[str, DiagnosticStatus] = {}
        self.create_subscription(TargetSighting, "target_sighting", self._on_sighting, 10)
        self.create_subscription(Odometry, "simulator/ground_truth", self._on_truth, 10)
        self.create_subscription(UInt32, "simulator/collisions", self._on_collisions, 10)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._reset = self.create_client(ResetSimulation, "simulator/reset")
        self.add_controller("")

    def add_controller(self, prefix: str) -> None:
        """Listen to the controller whose names begin with `prefix`, and be able to give it targets."""
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

        def on_state(message: NavigationState) -> None:
            if prefix == self._controller:
                self.seen.hear(time.monotonic(), message.target, message.state, message.reason)
                self.tell("does", f"{message.state}: {message.reason}")

        self.create_subscription(NavigationState, prefix + "navigation_state", on_state, latched)
        self._targets[prefix] = self.create_client(SetSearchTarget, prefix + "set_search_target")

    def close(self) -> None:
        self._spinner.shutdown()
        self.destroy_node()

    def _on_sighting(self, message: TargetSighting) -> None:
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        self.seen.ages.append(self.get_clock().now().nanoseconds * 1e-9 - stamp)
        self.tell("target", f"{message.direction} {message.range}" if message.visible else "not in sight")

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self._health.update({status.name: status for status in message.status})

    def _on_truth(self, message: Odometry) -> None:
        position = message.pose.pose.position
        self.seen.see_robot(position.x, position.y, self._collisions)

    def _on_collisions(self, message: UInt32) -> None:
        self._collisions = message.data

    def tell(self, what: str, words: str) -> None:
        """Say `words` about `what`, unless they were the last about it."""
        if self._told.get(what) != words:
            self._told[what] = words
            self._say(f"{what}: {words}")

    def spin(self, seconds: float) -> None:
        """Take what comes within `seconds`, at most one message."""
        self._check()
        self._spinner.spin_once(timeout_sec=seconds)

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Spin until `condition()`; raise TimeoutError naming `what` after `seconds`."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                health = "; ".join(f"{name}: {status.message}" for name, status in self._health.items())
                raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}; {health}")
            self.spin(0.1)

    def _call(self, client: Client, request: Any, what: str) -> Any:
        self.wait_until(client.service_is_ready, 30.0, what)
        future = client.call_async(request)
        self.wait_until(future.done, 30.0, f"the answer of {what}")
        return future.result()

    def wait_for_the_robot(self) -> None:
        """Until the classifier looks at images and targets can be set."""
        self.wait_until(self._looking, 120.0, "the classifier to look at images")
        for prefix, client in self._targets.items():
            self.wait_until(client.service_is_ready, 30.0, f"{prefix}set_search_target")

    def _looking(self) -> bool:
        classifier = self._health.get("classifier")
        if classifier is None:
            return False
        if classifier.level == DiagnosticStatus.ERROR and "no model" in classifier.message:
            raise RuntimeError(classifier.message)
        return classifier.level == DiagnosticStatus.OK

    def reset(self, room: Room) -> None:
        """Put the robot to the start of `room`."""
        request = ResetSimulation.Request(seed=room.seed, kind=room.kind)
        response = self._call(self._reset, request, "the simulator's reset")
        if not response.success:
            raise RuntimeError(f"the simulator refused room {room.seed}: {response.message}")
        start = room.start
        self.wait_until(
            lambda: self.seen.pose is not None and math.dist(self.seen.pose, (start.x, start.y)) < 0.1,
            30.0,
            "the new room",
        )
        end = time.monotonic() + SETTLING
        while time.monotonic() < end:
            self.spin(0.05)
        self._told = {}
        self.seen = EpisodeRecord()

    def set_target(self, target: str, controller: str = "") -> None:
        """Set a controller's target ("" stops the robot). Raises ValueError with its reason when it is refused."""
        self._controller = controller
        what = f"{controller}set_search_target"
        response = self._call(self._targets[controller], SetSearchTarget.Request(target=target), what)
        if not response.success:
            raise ValueError(response.message)


def run_episode(
    spectator: Spectator,
    room: Room,
    target: str,
    time_limit: float,
    controller: str = "",
    watch: Callable[[float], None] | None = None,
) -> Episode:
    """Let `controller` search in `room`, whose start the robot stands at, for at most `time_limit` [s].

    `watch` is called again and again with the time [s] since the target was set. Raises ValueError when the target is
    refused.
    """
    seen = spectator.seen
    spectator.set_target(target, controller)
    began = time.monotonic()
    while True:
        spectator.spin(0.05)
        now, end = time.monotonic(), seen.end_of(target)
        if watch:
            watch(now - began)
        if now > (began + time_limit if end is None else end.at + AT_REST):
            break
    spectator.set_target("", controller)
    return seen.episode(room, target, began, now)
