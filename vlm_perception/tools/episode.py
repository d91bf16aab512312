"""One search in one room, watched from outside: where the robot went, what it said, what it reached."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import Odometry
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import UInt32

from vlm_perception.msg import NavigationState, TargetSighting
from vlm_perception.navigation.sighting import check_target
from vlm_perception.simulation.room import NAMES, Room, make_room
from vlm_perception.srv import ResetSimulation, SetSearchTarget

FOUND_WITHIN = 1.0  # [m] from the robot's centre to the nearest point of the target
AT_REST = 1.0  # [s] after the arrival the wheels are at rest, and it is measured where the robot is
SETTLING = 0.5  # [s] after a reset everything about the room before has come and gone
PRESENT, ABSENT = "present", "absent"


@dataclass(frozen=True)
class Episode:
    """What came of a search. Distances are in [m], times in [s] since the target was set, places (x, y) in [m].

    `distance` ends at the target's nearest point and is None for a target that is not in the room; `driven` is how far
    the robot went, by ground truth. `image_ages` are those of the answers at their arrival, `states` are the changes
    of (time, state, reason).
    """

    seed: int
    target: str
    arrived: bool
    found: bool
    seconds: float
    distance: float | None
    driven: float
    collisions: int
    path: list[tuple[float, float]]
    collided_at: list[tuple[float, float]]
    states: list[tuple[float, str, str]]
    image_ages: list[float]


def choose_target(wish: str, room: Room) -> str:
    """Return `wish`, or for "present" and "absent" a thing that is, or is not, in `room`, by its seed.

    Raises ValueError for what cannot be a target.
    """
    wish = check_target(wish)
    there = [thing.name for thing in room.things]
    rng = np.random.default_rng((room.seed, 7))
    if wish == PRESENT:
        return str(rng.choice(there))
    if wish == ABSENT:
        return str(rng.choice([name for name in NAMES if name not in there]))
    return wish


@dataclass
class EpisodeRecord:
    """What came on the topics since the robot was put into its room. `states` and `ages` carry [s, monotonic]."""

    pose: tuple[float, float] | None = None
    path: list[tuple[float, float]] = field(default_factory=list)
    driven: float = 0.0
    collisions: int = 0
    collided_at: list[tuple[float, float]] = field(default_factory=list)
    states: list[tuple[float, NavigationState]] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)

    @property
    def state(self) -> NavigationState | None:
        return self.states[-1][1] if self.states else None


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
                self.seen.states.append((time.monotonic(), message))
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
        seen, position = self.seen, message.pose.pose.position
        seen.pose = (position.x, position.y)
        if not seen.path or math.dist(seen.path[-1], seen.pose) > 0.02:
            seen.driven += math.dist(seen.path[-1], seen.pose) if seen.path else 0.0
            seen.path.append(seen.pose)

    def _on_collisions(self, message: UInt32) -> None:
        if message.data > self.seen.collisions and self.seen.pose:
            self.seen.collided_at.append(self.seen.pose)
        self.seen.collisions = message.data

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

    def reset(self, seed: int) -> None:
        """Put the robot to the start of room `seed`."""
        response = self._call(self._reset, ResetSimulation.Request(seed=seed), "the simulator's reset")
        if not response.success:
            raise RuntimeError(f"the simulator refused room {seed}: {response.message}")
        start = make_room(seed).start
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
    thing = room.thing(target)
    seen = spectator.seen
    spectator.set_target(target, controller)
    began = time.monotonic()
    arrived: float | None = None
    while True:
        spectator.spin(0.05)
        now = time.monotonic()
        if watch:
            watch(now - began)
        state = seen.state
        if arrived is None and state is not None and state.target == target and state.state == "arrived":
            arrived = now
        if now > (began + time_limit if arrived is None else arrived + AT_REST):
            break
    seconds = (arrived or time.monotonic()) - began
    spectator.set_target("", controller)
    distance = thing.distance_to(*seen.pose) if thing and seen.pose else None
    return Episode(
        seed=room.seed,
        target=target,
        arrived=arrived is not None,
        found=arrived is not None and distance is not None and distance <= FOUND_WITHIN,
        seconds=seconds,
        distance=distance,
        driven=seen.driven,
        collisions=seen.collisions,
        path=list(seen.path),
        collided_at=list(seen.collided_at),
        states=[(at - began, state.state, state.reason) for at, state in seen.states if state.target == target],
        image_ages=list(seen.ages),
    )
