"""One search in one room, watched from outside: what the robot saw, did and reached."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import String, UInt32

from vlm_perception.msg import NavigationState, SceneLabel, TargetSighting
from vlm_perception.perception.frames import decode
from vlm_perception.simulation.room import NAMES, Room, make_room
from vlm_perception.srv import ResetSimulation, SetSearchTarget
from vlm_perception.tools.pictures import Video, annotate, draw_path

FOUND_WITHIN = 1.0  # [m] from the robot's centre to the nearest point of the target
VIDEO_RATE = 10.0  # [Hz]
PRESENT, ABSENT = "present", "absent"


@dataclass(frozen=True)
class Result:
    """What the demo prints as its last line. Distances [m] end at the target's nearest point."""

    found: bool
    target: str
    seconds: float
    distance_m: float | None
    collisions: int
    frames: int
    labels_per_s: float
    video: str | None
    picture: str | None
    seed: int
    said: str

    def json(self) -> str:
        return json.dumps(asdict(self))


def choose_target(wish: str, room: Room) -> str:
    """Return `wish`, or for "present" and "absent" a thing that is, or is not, in `room`, by its seed."""
    there = [thing.name for thing in room.things]
    rng = np.random.default_rng((room.seed, 7))
    if wish == PRESENT:
        return str(rng.choice(there))
    if wish == ABSENT:
        return str(rng.choice([name for name in NAMES if name not in there]))
    return wish


@dataclass
class Seen:
    """The newest of everything on the topics."""

    image: Image | None = None
    label: SceneLabel | None = None
    description: str = ""
    sighting: TargetSighting | None = None
    state: NavigationState | None = None
    command: tuple[float, float] = (0.0, 0.0)
    collisions: int = 0
    pose: tuple[float, float] | None = None
    path: list[tuple[float, float]] = field(default_factory=list)
    frames: int = 0
    labels: int = 0


class Spectator(Node):
    """Listens to everything, asks for resets and targets, and never moves anything itself."""

    def __init__(self, say: Callable[[str], None], check: Callable[[], None]):
        super().__init__("spectator")
        self._say = say
        self._check = check
        self.seen = Seen()
        self._told: dict[str, str] = {}
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(Image, "camera/image_raw", self._on_image, qos_profile_sensor_data)
        self.create_subscription(SceneLabel, "scene_label", self._on_label, 10)
        self.create_subscription(String, "scene_description", self._on_description, 10)
        self.create_subscription(TargetSighting, "target_sighting", self._on_sighting, 10)
        self.create_subscription(NavigationState, "navigation_state", self._on_state, latched)
        self.create_subscription(Twist, "cmd_vel", self._on_command, 10)
        self.create_subscription(Odometry, "simulator/ground_truth", self._on_truth, 10)
        self.create_subscription(UInt32, "simulator/collisions", self._on_collisions, 10)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._health: dict[str, DiagnosticStatus] = {}
        self._target = self.create_client(SetSearchTarget, "set_search_target")
        self._reset = self.create_client(ResetSimulation, "simulator/reset")

    def _on_image(self, message: Image) -> None:
        self.seen.image = message
        self.seen.frames += 1

    def _on_label(self, message: SceneLabel) -> None:
        self.seen.label = message
        self.seen.labels += 1
        self._tell("sees", message.label)

    def _on_description(self, message: String) -> None:
        self.seen.description = message.data
        self._tell("describes", message.data)

    def _on_sighting(self, message: TargetSighting) -> None:
        self.seen.sighting = message
        self._tell("target", f"{message.direction} {message.range}" if message.visible else "not in sight")

    def _on_state(self, message: NavigationState) -> None:
        self.seen.state = message
        self._tell("does", f"{message.state}: {message.reason}")

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self._health.update({status.name: status for status in message.status})

    def _on_command(self, message: Twist) -> None:
        self.seen.command = (message.linear.x, message.angular.z)

    def _on_truth(self, message: Odometry) -> None:
        position = message.pose.pose.position
        self.seen.pose = (position.x, position.y)
        if not self.seen.path or math.dist(self.seen.path[-1], self.seen.pose) > 0.02:
            self.seen.path.append(self.seen.pose)

    def _on_collisions(self, message: UInt32) -> None:
        self.seen.collisions = message.data

    def _tell(self, what: str, words: str) -> None:
        if self._told.get(what) != words:
            self._told[what] = words
            self._say(f"{what}: {words}")

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Spin until `condition()`; raise TimeoutError naming `what` after `seconds`, RuntimeError when a node died."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                health = "; ".join(f"{name}: {status.message}" for name, status in self._health.items())
                raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}; {health}")
            self._check()
            rclpy.spin_once(self, timeout_sec=0.1)

    def _call(self, client, request, what: str):
        self.wait_until(client.service_is_ready, 30.0, what)
        future = client.call_async(request)
        self.wait_until(future.done, 30.0, f"the answer of {what}")
        return future.result()

    def wait_for_the_robot(self) -> None:
        """Until pictures come, are labelled, and targets can be set."""
        self.wait_until(self._labelled, 120.0, "the first scene label")
        self.wait_until(self._target.service_is_ready, 30.0, "set_search_target")

    def _labelled(self) -> bool:
        classifier = self._health.get("classifier")
        if classifier is not None and classifier.level == DiagnosticStatus.ERROR and "no model" in classifier.message:
            raise RuntimeError(classifier.message)
        return self.seen.label is not None

    def reset(self, seed: int) -> None:
        """Put the robot to the start of room `seed`."""
        response = self._call(self._reset, ResetSimulation.Request(seed=seed), "the simulator's reset")
        if not response.success:
            raise RuntimeError(f"the simulator refused room {seed}: {response.message}")
        start = make_room(seed).start
        self.wait_until(
            lambda: self.seen.pose is not None and math.dist(self.seen.pose, (start.x, start.y)) < 0.1,
            10.0,
            "the new room",
        )
        self._told = {}
        self.seen = Seen(pose=(start.x, start.y))

    def set_target(self, target: str) -> str:
        """Set the search target ("" stops the robot). Raises ValueError with the navigator's reason when refused."""
        response = self._call(self._target, SetSearchTarget.Request(target=target), "set_search_target")
        if not response.success:
            raise ValueError(response.message)
        return response.message


def run_episode(
    spectator: Spectator, seed: int, wish: str, time_limit: float, output: Path | None, name: str
) -> Result:
    """Search in room `seed`, whose start the robot stands at, for at most `time_limit` seconds.

    With `output`, a video and a picture of the path are written there. Raises ValueError when the target is refused.
    """
    room = make_room(seed)
    target = choose_target(wish, room)
    thing = room.thing(target)
    seen = spectator.seen
    video = Video(output / f"{name}.mp4", VIDEO_RATE) if output else None
    spectator.set_target(target)
    began = time.monotonic()
    start_frames, start_labels = seen.frames, seen.labels
    next_picture = began
    ended: float | None = None
    while True:
        spectator._check()
        rclpy.spin_once(spectator, timeout_sec=0.05)
        now = time.monotonic()
        if video and now >= next_picture:
            next_picture = max(next_picture + 1 / VIDEO_RATE, now - 1.0)
            if (picture := _draw(seen, target, now - began)) is not None:
                video.add(picture)
        state = seen.state
        if ended is None and state is not None and state.target == target and state.state == "arrived":
            ended = now
        if ended is not None and now > ended + 1.0:  # let the wheels come to rest, and the video show it
            break
        if ended is None and now - began > time_limit:
            break
    seconds = (ended or time.monotonic()) - began
    said = "arrived" if ended else "not found"
    spectator.set_target("")
    distance = thing.distance_to(*seen.pose) if thing and seen.pose else None
    if video:
        video.close()
        draw_path(room, seen.path, target, output / f"{name}.png")
    return Result(
        found=ended is not None and distance is not None and distance <= FOUND_WITHIN,
        target=target,
        seconds=round(seconds, 1),
        distance_m=None if distance is None else round(distance, 2),
        collisions=seen.collisions,
        frames=seen.frames - start_frames,
        labels_per_s=round((seen.labels - start_labels) / (time.monotonic() - began), 1),
        video=str(video.path) if video else None,
        picture=str(output / f"{name}.png") if output else None,
        seed=seed,
        said=said,
    )


def _draw(seen: Seen, target: str, clock: float) -> np.ndarray | None:
    if seen.image is None:
        return None
    sighting, state, label = seen.sighting, seen.state, seen.label
    answer = f"where is the {target}? "
    if sighting is not None:
        answer += f"{sighting.direction} {sighting.range}" if sighting.visible else "not in sight"
        answer += f" ({sighting.confidence:.2f})"
    return annotate(
        decode(seen.image).image,
        state.state if state else "",
        state.reason if state else "",
        answer,
        list(zip(label.choices, label.probabilities, strict=True)) if label else [],
        label.label if label else "",
        seen.command,
        clock,
    )
