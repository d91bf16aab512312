"""Observation of the running ROS system for some seconds: its nodes, their images and their health."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from vlm_perception.perception.frame import FrameError, stamp_of
from vlm_perception.perception.image_message import decode, form_of

SETTLED = 1.5
"""Time without a change of the graph after which all nodes are known [s], on a machine with free cores."""
STEP = 0.25
"""Time between two readings of the graph [s]."""
ASK_AGAIN = 0.5
"""Time until a node is asked again for a parameter [s]."""
PATIENCE = 4.0
"""Largest factor by which waiting is prolonged while something is missing, or on a busy machine."""
UNKNOWN = "_NODE_NAME_UNKNOWN_"
"""Name by rmw of a new node of which it knows only an endpoint yet."""
IMAGES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
PARAMETERS = {"classifier": ("use_sim_time", "max_frame_age"), "navigator": ("use_sim_time",)}
"""Parameters to ask our nodes for."""
BEST_EFFORT = ReliabilityPolicy.BEST_EFFORT


@dataclass(frozen=True)
class TopicEndpoint:
    """A publisher or subscriber: the full name of its `node`, the `type` of its messages, its quality of service."""

    node: str
    type: str
    qos: QoSProfile


@dataclass
class ImageStream:
    """The images received on a camera's topic.

    `ages` are those of each image [s], by the system's clock and by /clock, which may be silent. `numbers` are the
    publisher's sequence numbers. `form` is size and encoding. `problem` says why an image cannot be decoded.
    `doubt` says why it may not show what the camera sees.
    """

    stamps: list[int] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    ages: list[tuple[float, float | None]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    form: str = ""
    problem: str | None = None
    doubt: str | None = None

    @property
    def rate(self) -> float:
        """Images per second; 0 for less than two images."""
        spent = self.arrivals[-1] - self.arrivals[0] if self.arrivals else 0.0
        return (len(self.arrivals) - 1) / spent if spent > 0 else 0.0

    @property
    def lost(self) -> float:
        """Share of the published images that did not come; 0 if the middleware does not count them."""
        published = self.numbers[-1] - self.numbers[0] + 1 if self.numbers else 0
        return max(0.0, 1.0 - len(self.numbers) / published) if published > 0 else 0.0


@dataclass
class Observation:
    """All observations: `publishers` and `subscribers` by topic, `parameters` and `health` by the node's full name."""

    nodes: list[str] = field(default_factory=list)
    publishers: dict[str, list[TopicEndpoint]] = field(default_factory=dict)
    subscribers: dict[str, list[TopicEndpoint]] = field(default_factory=dict)
    images: dict[str, ImageStream] = field(default_factory=dict)
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    health: dict[str, DiagnosticStatus] = field(default_factory=dict)

    def called(self, name: str) -> list[str]:
        """Return the full names of the nodes `name` in all namespaces."""
        return [node for node in self.nodes if node.rpartition("/")[2] == name]

    def topics(
        self, endpoints: dict[str, list[TopicEndpoint]], nodes: Sequence[str], types: Sequence[str]
    ) -> list[str]:
        """Return the topics on which one of `nodes` is among the `endpoints`, with one of `types`."""
        return [topic for topic, ends in endpoints.items() if any(e.node in nodes and e.type in types for e in ends)]


class Observer:
    """A node in the current ROS context that makes an `Observation`."""

    def __init__(self) -> None:
        self.seen = Observation()
        self._node = Node(f"_vlm_perception_doctor_{os.getpid()}", enable_rosout=False, start_parameter_services=False)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._clock: int | None = None
        self._followed: dict[str, float] = {}
        self._clients: dict[str, AsyncParameterClient] = {}
        self._asked: dict[str, float] = {}
        self._told: dict[str, set[str]] = {}
        self._changed = time.monotonic()
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_health, 100)
        self._node.create_subscription(Clock, "/clock", self._on_clock, QoSProfile(depth=1, reliability=BEST_EFFORT))

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def find(self) -> None:
        """Note the nodes, publishers and subscribers, and when they changed."""
        before = self._graph()
        own = self._node.get_fully_qualified_name()
        found = [_full(space, name) for name, space in self._node.get_node_names_and_namespaces()]
        self.seen.nodes = sorted(name for name in found if name != own)
        self.seen.publishers, self.seen.subscribers = {}, {}
        for topic, _ in self._node.get_topic_names_and_types():
            for ends, infos in (
                (self.seen.publishers, self._node.get_publishers_info_by_topic(topic)),
                (self.seen.subscribers, self._node.get_subscriptions_info_by_topic(topic)),
            ):
                everybody = [
                    TopicEndpoint(_full(info.node_namespace, info.node_name), info.topic_type, info.qos_profile)
                    for info in infos
                ]
                ends[topic] = [end for end in everybody if end.node != own]
        if self._graph() != before or self._has_unknown_nodes():
            self._changed = time.monotonic()

    def _graph(self) -> tuple[Any, ...]:
        return self.seen.nodes, self.seen.publishers, self.seen.subscribers

    def _has_unknown_nodes(self) -> bool:
        everybody = [*self.seen.publishers.values(), *self.seen.subscribers.values()]
        return any(UNKNOWN in end.node for ends in everybody for end in ends)

    @property
    def settled(self) -> bool:
        """Whether the graph has not changed for long enough. On a busy machine nodes are discovered later."""
        return time.monotonic() - self._changed >= SETTLED * busyness()

    def discover(self) -> None:
        """Wait until all nodes are known, at most `PATIENCE` times the time in which the graph settles."""
        end = time.monotonic() + PATIENCE * SETTLED * busyness()
        while time.monotonic() < end and not self.settled:
            self.spin(STEP)
            self.find()

    def follow(self, image_topics: Sequence[str]) -> None:
        """Subscribe to new cameras, and ask our new nodes for their parameters. The answers come while this node spins.

        The cameras are the topics named. Without them, they are the topics that classifiers subscribe to, and without a
        classifier camera/image_raw.
        """
        listened = self.seen.topics(self.seen.subscribers, self.seen.called("classifier"), tuple(IMAGES))
        guess = [] if self.seen.called("classifier") else ["camera/image_raw"]
        wanted = [self._node.resolve_topic_name(name) for name in image_topics or listened or guess]
        for topic in wanted:
            images = self.seen.images.setdefault(topic, ImageStream())
            kinds = [IMAGES[end.type] for end in self.seen.publishers.get(topic, []) if end.type in IMAGES]
            if kinds and topic not in self._followed:
                self._followed[topic] = time.monotonic()
                qos = QoSProfile(depth=10, reliability=BEST_EFFORT)
                self._node.create_subscription(kinds[0], topic, partial(self._on_image, images), qos)
        if not image_topics:  # camera/image_raw was a guess
            self.seen.images = {topic: self.seen.images[topic] for topic in wanted}
        for name, parameters in PARAMETERS.items():
            for node in self.seen.called(name):
                if node not in self._clients:
                    self._clients[node] = AsyncParameterClient(self._node, node)
                client = self._clients[node]
                now = time.monotonic()
                if now - self._asked.get(node, -math.inf) < ASK_AGAIN or not client.services_are_ready():
                    continue
                # A response is lost if its node does not know this client yet, so the question is repeated. The
                # parameters are asked for one by one: a node that lacks one of several returns none of them.
                self._asked[node] = now
                for (
                    parameter
                ) in parameters:  # one by one: a node that lacks one of several parameters returns none of them
                    if parameter not in self._told.get(node, ()):
                        answer = client.get_parameters([parameter])
                        answer.add_done_callback(partial(self._on_parameter, node, parameter))

    def listen(self, seconds: float, image_topics: Sequence[str]) -> None:
        """Listen to each camera for `seconds`, and up to `PATIENCE` times as long while something is missing."""
        begun = time.monotonic()
        while True:
            self.find()
            self.follow(image_topics)
            now = time.monotonic()
            enough = all(now - since >= seconds for since in (begun, *self._followed.values()))
            if now - begun >= PATIENCE * seconds or (enough and self.settled and not self.misses_something()):
                return
            self.spin(STEP)

    def misses_something(self) -> bool:
        """Return whether a camera or a node that must be there has sent nothing yet, or is not in the graph yet."""
        nodes = {node for name in PARAMETERS for node in self.seen.called(name)}
        heard = self.seen.health.keys() & self.seen.parameters.keys()
        hidden = [node for node in self.seen.health if node.rpartition("/")[2] in PARAMETERS and node not in nodes]
        wanted = [
            images
            for topic, images in self.seen.images.items()
            if self.seen.publishers.get(topic) or self.seen.subscribers.get(topic)
        ]
        unknown = bool(self.seen.called("classifier")) and not self.seen.images
        return unknown or bool(hidden) or not nodes <= heard or not all(images.arrivals for images in wanted)

    def _on_parameter(self, node: str, name: str, answer: Future) -> None:
        self._told.setdefault(node, set()).add(name)
        for value in answer.result().values:
            self.seen.parameters.setdefault(node, {})[name] = parameter_value_to_python(value)

    def _on_health(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.seen.health["/" + status.name.lstrip("/")] = status

    def _on_clock(self, message: Clock) -> None:
        self._clock = message.clock.sec * 1_000_000_000 + message.clock.nanosec

    def _on_image(self, images: ImageStream, message: Any, info: dict[str, int]) -> None:
        stamp = stamp_of(message)
        images.arrivals.append(time.monotonic())
        images.stamps.append(stamp)
        images.ages.append(
            ((time.time_ns() - stamp) * 1e-9, None if self._clock is None else (self._clock - stamp) * 1e-9)
        )
        if number := info.get("publication_sequence_number"):
            images.numbers.append(number)
        if form_of(message) != images.form:
            images.form = form_of(message)
            try:
                images.doubt = decode(message).doubt
            except FrameError as error:
                images.problem = str(error)


def busyness() -> float:
    """Return by which factor this machine is slower than one with free cores: its load per core, 1 to `PATIENCE`."""
    return min(max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), PATIENCE)


def _full(namespace: str, name: str) -> str:
    return f"{namespace.rstrip('/')}/{name}"


def look(seconds: float, image_topics: Sequence[str]) -> Observation:
    """Observe the ROS system for `seconds`, or longer while something is missing; return the observation."""
    observer = Observer()
    try:
        observer.discover()
        observer.listen(seconds, image_topics)
    finally:
        observer.close()
    return observer.seen
