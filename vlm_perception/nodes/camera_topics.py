"""One camera of the classifier: its subscription, its output topics and its health."""

from __future__ import annotations

import array
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from rclpy import get_rmw_implementation_identifier
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import String

from vlm_perception import msg
from vlm_perception.nodes.classification import ClassificationPublisher, vision_msgs
from vlm_perception.nodes.diagnostics import Health, Level
from vlm_perception.nodes.faults import Faults
from vlm_perception.nodes.graph import services_of
from vlm_perception.nodes.profile import shipped_profile
from vlm_perception.nodes.qos import IMAGES
from vlm_perception.nodes.services import guarded
from vlm_perception.perception.annotation import annotate
from vlm_perception.perception.camera import Camera
from vlm_perception.perception.frame import Frame
from vlm_perception.perception.off_mass import OffMass
from vlm_perception.perception.outputs import Description, Label
from vlm_perception.perception.settings import Settings
from vlm_perception.perception.trace import Trace
from vlm_perception.text import printable

FROZEN = 10.0
"""Time without any change of the image until a warning [s]. Only simulated images have no noise."""
WORDS_LAST = 5.0
"""Age above which a description is not drawn [s]."""
LOST_HINT = (
    " Set the profile (FASTRTPS_DEFAULT_PROFILES_FILE) in the camera's process too. If the network is too slow: "
    "image_transport compressed, or fewer or smaller images"
)
SIMULATOR = "vlm_perception/srv/ResetSimulation"
"""Type of a service that only the simulator offers."""
LOST = 0.05
"""Share of lost images above which there is a warning."""
FAST_DDS_HINT = (
    " Fast DDS loses large messages without a profile: set FASTRTPS_DEFAULT_PROFILES_FILE in every process, above all "
    "the camera's, to"
)


def names_of_cameras(topics: Sequence[str]) -> list[str]:
    """Return the camera's name for each of `topics`: the topic without its last segment, front for front/image_raw.

    Raises ValueError for no topic, for a name that cannot be a topic, and for two cameras with the same name.
    """
    if not topics:
        raise ValueError("camera_topics is empty, expected at least one topic of images, such as camera/image_raw")
    names = []
    for topic in topics:
        if not re.fullmatch(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", topic, re.ASCII):
            raise ValueError(
                f"camera_topics has {topic!r:.200}, expected the name of a topic, such as front/image_raw: letters, "
                "digits and _ between single /"
            )
        parts = topic.strip("/").split("/")
        names.append("/".join(parts[:-1] or parts))
    for number, name in enumerate(names):
        if (first := names.index(name)) < number:
            raise ValueError(
                f"camera_topics has {topics[first]!r} and {topics[number]!r}, which both name the camera {name!r}. A "
                "camera's name is its topic without the last segment, and no two may be the same: remap a topic"
            )
    return names


class CameraTopics:
    """The topics of one camera of `node`: its images on `topic`, and the outputs about them.

    `camera` is None unless the node is configured. With `several` cameras, the output topics begin with `name`.
    """

    def __init__(self, node: LifecycleNode, name: str, topic: str, compressed: bool, several: bool) -> None:
        self.name = name
        self.camera: Camera | None = None
        self._off_mass = OffMass()
        self.faults = Faults(node.get_logger(), name if several else "")
        self.refused_qos: str | None = None
        self.out_of_scope: str | None = None
        """Why the model was not taught to look at these images, or None; drawn on the annotated image."""
        self._node = node
        self._several = several
        self._kind: type = CompressedImage if compressed else Image
        self._topic = f"{topic}/compressed" if compressed else topic
        self._full_topic = node.resolve_topic_name(self._topic)
        self._subscription: Any = None
        prefix = f"{name}/" if several else ""
        self._label = node.create_lifecycle_publisher(msg.SceneLabel, f"{prefix}scene_label", 10)
        self._classification = ClassificationPublisher(node, prefix) if vision_msgs else None
        self._description = node.create_lifecycle_publisher(String, f"{prefix}scene_description", 10)
        self._annotated = node.create_lifecycle_publisher(Image, f"~/{prefix}annotated_image", IMAGES)
        self._drawn = 0.0
        self._words = ""
        self._words_at = 0.0
        self._lost = 0
        self._counted = (time.monotonic(), Counter[str]())

    def make_camera(self, settings: Settings, trace: Trace | None) -> Camera:
        """Make the `camera` for the messages, and return it."""
        clock = self._node.get_clock()
        self.camera = Camera(self.name, settings, lambda: clock.now().nanoseconds, trace)
        return self.camera

    def open(self, wake: Callable[[], None]) -> None:
        """Subscribe, unless subscribed: each message goes to the camera, then `wake` is called."""
        if self._subscription:
            return
        camera = self.camera
        assert camera, "configure comes before activate"

        def put(message: Any) -> None:
            if problem := camera.put(message):
                self.faults.add(*problem)
            else:
                wake()

        self.refused_qos = None
        self._subscription = self._node.create_subscription(
            self._kind,
            self._topic,
            guarded(put, partial(self.faults.add, "internal")),
            QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._on_incompatible_qos, message_lost=self._on_lost
            ),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def close(self) -> None:
        """Unsubscribe."""
        if self._subscription:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _on_incompatible_qos(self, event: Any) -> None:
        policy = QoSPolicyKind(event.last_policy_kind).name.lower()
        topic = self._full_topic
        self.refused_qos = (
            f"{topic} is offered with another {policy} than the classifier asks for: "
            f"set qos_overrides.{topic}.subscription.{policy} to the camera's"
        )
        self._node.get_logger().error(self.refused_qos)

    def _on_lost(self, event: Any) -> None:
        """Count messages that the middleware lost. Those that this node was too slow for are not among them."""
        self._lost += event.total_count_change

    # Outputs

    def publish_label(self, label: Label, drawing_rate: float) -> None:
        """Publish the label; for subscribers, at most at `drawing_rate` [Hz], also the image with it."""
        frame, answer, smoothed = label.frame, label.answer, label.smoothed
        message = msg.SceneLabel(
            header=frame.header,
            camera=frame.camera,
            label=smoothed.label,
            confidence=smoothed.confidence,
            raw_label=answer.value,
            choices=list(answer.options),
            probabilities=list(answer.probabilities),
            inference_time=time.monotonic() - frame.taken,
            answer_age=answer.age,
        )
        if region := frame.region:
            message.region = RegionOfInterest(
                x_offset=region.x, y_offset=region.y, width=region.width, height=region.height
            )
        self._label.publish(message)
        if self._classification:
            self._classification.publish(frame.header, smoothed, answer.options)
        if problem := self._off_mass.update(answer.off_mass, time.monotonic()):
            self.faults.add("off mass", problem)
        due = drawing_rate and frame.taken - self._drawn >= 1 / drawing_rate
        if due and self._annotated.get_subscription_count():
            self._drawn = frame.taken
            words = self._words if frame.taken - self._words_at < WORDS_LAST else ""
            drawn = annotate(frame.full_image, *smoothed, words, answer.options, self.out_of_scope)
            self._annotated.publish(image_message(frame, drawn))

    def publish_description(self, description: Description) -> None:
        """Publish the description."""
        self._words, self._words_at = printable(description.answer.value), description.frame.taken
        self._description.publish(String(data=self._words))

    # Health

    def watch(self) -> None:
        """Count new problems of the stream. Call this some times per second."""
        for problem in self.camera.monitor.watch() if self.camera else ():
            self.faults.add(*problem)

    @property
    def health(self) -> Health:
        """Health of the camera, while the node is configured."""
        camera = self.camera
        assert camera, "only a configured node has cameras"
        if silence := self.silence:
            return Health(Level.ERROR, silence)
        if lasting := camera.monitor.problem:
            gone = "" if self._node.count_publishers(self._full_topic) else f" {self._why_no_image()}"
            return Health(Level.ERROR, lasting.words + gone)
        if fault := self.faults.recent:
            return Health(Level.WARN, fault, logged=True)
        if camera.doubt:
            return Health(Level.WARN, camera.doubt)
        if (seconds := camera.unchanged) > FROZEN and not self.is_simulated:
            words = f"the camera has delivered the same image for {seconds:.0f} s: is it frozen (or simulated)?"
            return Health(Level.WARN, words)
        if self.out_of_scope:
            return Health(Level.WARN, self.out_of_scope)
        return Health(Level.OK, "looking")

    @property
    def is_simulated(self) -> bool:
        """Whether every publisher of the images is a simulator of this package, which a service of its own shows."""
        ends = self._node.get_publishers_info_by_topic(self._topic)
        return bool(ends) and all(map(self._is_simulator, ends))

    def _is_simulator(self, end: Any) -> bool:
        services = services_of(self._node, end.node_name, end.node_namespace)
        return any(SIMULATOR in types for types in services.values())

    @property
    def silence(self) -> str | None:
        """Why no image has come yet; None if one has, or without a subscription."""
        if not self._subscription or (self.camera and self.camera.monitor.form):
            return None
        return self.refused_qos or self._why_no_image()

    def metrics(self) -> dict[str, object]:
        """Return the camera's figures, with rates since the last call. Too many lost images since then are a fault."""
        if not (camera := self.camera):
            return self.faults.metrics()
        now, pipeline = time.monotonic(), camera.pipeline
        counts = Counter({"images": camera.slot.received, "lost": self._lost, **pipeline.counts})
        since, before = self._counted
        seconds = max(now - since, 1e-3)
        self._counted = (now, counts)
        lost, came = counts["lost"] - before["lost"], max(0, counts["images"] - before["images"])
        if lost > LOST * (lost + came):
            words = f"{lost} of {lost + came} images in {seconds:.1f} s were lost before they reached this node."
            self.faults.add("images lost", words + (missing_profile() or LOST_HINT))
        figures: dict[str, object] = {
            f"{name} per second": max(0, counts[name] - before[name]) / seconds
            for name in ("images", "labels", "descriptions", "asks")
        }
        figures["images lost on the way"] = self._lost
        figures["images replaced by newer ones"] = camera.slot.dropped
        monitor = camera.monitor
        if monitor.form:
            figures["image"] = monitor.form
            figures["changes of size or encoding"] = monitor.changes
            figures["image unchanged for [s]"] = camera.unchanged
        if monitor.stamp is not None:
            figures["image age [s]"] = (self._node.get_clock().now().nanoseconds - monitor.stamp) * 1e-9
            figures["image came ago [s]"] = now - monitor.arrival
        if self._off_mass.value is not None:
            figures["probability outside the labels (off_mass)"] = self._off_mass.value
        figures |= pipeline.cache.metrics() | {"labels about a region": pipeline.counts["regions"]}
        return figures | camera.spans.metrics() | self.faults.metrics()

    def _why_no_image(self) -> str:
        topic, kind = self._full_topic, self._kind.__name__
        if not self._node.count_publishers(topic):
            own = {end.topic_name for end in self._node.publishers}
            own |= {end.topic_name for end in self._node.subscriptions}
            others = [
                name
                for name, types in self._node.get_topic_names_and_types()
                if f"sensor_msgs/msg/{kind}" in types and name not in own and may_be_camera(name)
                if self._node.count_publishers(name)
            ]
            there = f", but {', '.join(others[:5])}: name it" if others else ": start a camera, or name its topic"
            launched = "camera_topics" if self._several else "image_topic"
            return (
                f"nobody publishes {topic}{there} (ros2 launch: {launched}:=...; "
                f"ros2 run: -r {self._topic}:=/your/topic)"
            )
        return f"{topic} has a publisher but no image came: does the camera deliver?{missing_profile() or ''}"


def may_be_camera(topic: str) -> bool:
    """Return whether images of this `topic` may come from a camera, not be depth or annotated images."""
    return not re.search(r"depth|annotated", topic)


def missing_profile() -> str | None:
    """Return what to do if this process lacks the Fast DDS settings for images; else None."""
    profile = os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE", "")
    if "fastrtps" not in get_rmw_implementation_identifier() or os.path.isfile(profile):
        return None
    return f"{FAST_DDS_HINT} {shipped_profile() or 'config/fastdds.xml of this package'}" + (
        f"; {profile!r} names no file" if profile else ""
    )


def image_message(frame: Frame, image: np.ndarray) -> Image:
    """Return the RGB `image` as a message with the header of `frame`."""
    message = Image(header=frame.header, height=image.shape[0], width=image.shape[1], encoding="rgb8")
    message.step = image.shape[1] * 3
    message.data = array.array("B", image.tobytes())  # a hundred times faster than the bytes themselves
    return message
