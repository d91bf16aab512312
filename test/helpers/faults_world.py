"""Classifier, navigator and camera with a scripted model, and what comes out, for tests of faults."""

from __future__ import annotations

import array
import math
import threading

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("vlm_perception.srv", reason="the interfaces are not built", exc_type=ImportError)

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from vlm_perception.models.base import ModelOutOfMemoryError
from vlm_perception.msg import NavigationState, Question, SceneLabel
from vlm_perception.nodes import run
from vlm_perception.nodes.classifier import Classifier
from vlm_perception.nodes.navigator import Navigator
from vlm_perception.questions import Answer, Text
from vlm_perception.srv import Ask, SetSearchTarget

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


SIDE = Question(name="side", type=Question.CHOICE, prompt="where is it?", options=["left", "right"])


class Scripted:
    """Sees the target far ahead and the way clear, unless it is told to fail."""

    name = "scripted"
    truth = ("center far", "clear", "center")

    def __init__(self):
        self.error: BaseException | None = None
        self.most = math.inf
        self.certainty = 0.94
        self.gate = threading.Event()
        self.gate.set()

    def answer(self, image, questions):
        assert self.gate.wait(60)
        if self.error:
            raise self.error
        if len(questions) > self.most:
            raise ModelOutOfMemoryError(f"no memory for {len(questions)} questions")
        return [Answer("words", 1.0) if isinstance(q, Text) else self.reply(q) for q in questions]

    def reply(self, question):
        best = next((o for o in question.options if o in self.truth), question.options[0])
        rest = (1 - self.certainty) / (len(question.options) - 1)
        probabilities = tuple(self.certainty if o == best else rest for o in question.options)
        return Answer(best, self.certainty, question.options, probabilities)

    def describe_self(self):
        return {}


class World:
    """A camera at 20 Hz whose every image differs, a classifier, a navigator, and all that they say.

    `good` are the stamps of the images that may be labelled, which are no second away from now.
    """

    def __init__(self, ros, load=None, qos=qos_profile_sensor_data, simulated=False, **parameters):
        self.ros, self.model = ros, Scripted()
        self.twists = ros.collect(Twist, "cmd_vel")
        self.states = ros.collect(NavigationState, "navigation_state", LATCHED)
        self.labels = ros.collect(SceneLabel, "scene_label")
        self.health = ros.collect(DiagnosticArray, "/diagnostics")
        parameters = {
            "max_frame_age": 0.5,
            "ask_timeout": 0.5,
            "label.rate": 20.0,
            "description.rate": 0.0,
            **parameters,
        }
        clock = [Parameter("use_sim_time", value=simulated)]
        self.classifier = ros.add(
            Classifier(
                load or (lambda *_: self.model),
                parameter_overrides=[*clock, *(Parameter(name, value=value) for name, value in parameters.items())],
            )
        )
        self.navigator = ros.add(Navigator(parameter_overrides=clock))
        self.camera = ros.node.create_publisher(Image, "camera/image_raw", qos)
        self.clock = ros.node.create_publisher(Clock, "/clock", 10)
        self.time = 1_000 * 10**9 if simulated else None
        self.paused = False
        self.good: list[int] = []
        self.noise = np.random.default_rng(0)
        self.form = (24, 32, "rgb8")
        self.pixels = self.stamp = None
        self.offset = 0
        self.timer = ros.node.create_timer(0.05, self.show)
        run.autostart(self.classifier)
        run.autostart(self.navigator)

    def now(self) -> int:
        return self.ros.node.get_clock().now().nanoseconds if self.time is None else self.time

    def show(self):
        if self.time is not None:
            self.time += 0 if self.paused else 50_000_000
            self.clock.publish(Clock(clock=stamped(self.time)))
        height, width, encoding = self.form
        pixels = self.noise.integers(0, 256, (height, width, 3), dtype=np.uint8) if self.pixels is None else self.pixels
        message = Image(height=height, width=width, encoding=encoding, step=3 * width)
        stamp = self.now() + self.offset if self.stamp is None else self.stamp
        message.header.stamp = stamped(stamp)
        message.data = array.array("B", pixels.tobytes())
        if abs(self.offset) < 10**9 and self.stamp is None:
            self.good.append(stamp)
        self.camera.publish(message)

    def drives(self):
        """The navigator is given a target, if it has none, and the robot drives to it."""
        if not self.states or self.states[-1].mode != "search":
            request = SetSearchTarget.Request(target="red ball")
            self.ros.until(lambda: self.ros.call(SetSearchTarget, "set_search_target", request).success, "navigator")
        del self.twists[:]
        self.ros.until(lambda: any(twist.linear.x > 0.1 for twist in self.twists), "drive", 30.0)

    def goes_on(self):
        """The robot drives again, and a label about a new image comes."""
        last = self.good[-1] if self.good else 0
        self.drives()
        label = self.ros.until(lambda: next((m for m in self.labels if nanoseconds(m) > last), None), "new label")
        assert label.label == "clear"
        self.is_honest()

    def stands(self, *words):
        """The last twist is zero, and the state says why with all the `words`."""

        def still():
            state = self.states[-1]
            return self.twists[-1] == Twist() and state.state == "stopped" and all(w in state.reason for w in words)

        self.ros.until(still, f"standing for {words}")
        del self.twists[:]
        self.ros.spin(0.3)
        assert all(twist == Twist() for twist in self.twists)

    def is_honest(self):
        """Each label is about an image that was good, and none about the same or an older one than the one before."""
        stamps = [nanoseconds(label) for label in self.labels]
        assert set(stamps) <= set(self.good)
        assert stamps == sorted(set(stamps))

    def says(self, words, node="classifier", level=None) -> dict[str, str]:
        """Wait until the diagnostics of `node` say `words`; return their figures."""

        def found():
            for status in (s for m in self.health for s in m.status):
                if status.name == node and words in status.message and level in (None, status.level):
                    return {value.key: value.value for value in status.values}

        self.health.clear()
        return self.ros.until(found, f"{words!r} of {node}, but {[s.message for m in self.health for s in m.status]}")

    def ask(self):
        return self.ros.call(Ask, "ask", Ask.Request(questions=[SIDE]))

    def change(self, *transitions) -> list[bool]:
        requests = [ChangeState.Request(transition=Transition(label=label)) for label in transitions]
        return [self.ros.call(ChangeState, "classifier/change_state", request).success for request in requests]

    def state(self) -> str:
        return self.ros.call(GetState, "classifier/get_state", GetState.Request()).current_state.label


def stamped(time: int) -> Time:
    return Time(sec=time // 10**9, nanosec=time % 10**9)


def nanoseconds(label) -> int:
    return label.header.stamp.sec * 10**9 + label.header.stamp.nanosec
