"""A classifier node with a scripted model, a camera that shows one colour, and what comes out."""

from __future__ import annotations

import array
import threading

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import String

from vlm_perception.msg import Question, SceneLabel
from vlm_perception.nodes import run
from vlm_perception.nodes.classifier import Classifier
from vlm_perception.questions import Answer, Text, Usage
from vlm_perception.srv import Ask

RED, GREEN = (200, 20, 20), (20, 200, 20)


class Scripted:
    """Says the first option for a reddish image, the last for any other; the description is the mean colour."""

    name = "scripted"
    decision = Usage(0.25, 0.25, 0, 5 << 20)
    words = Usage(2.0, 0.5, 31, 7 << 20)

    def __init__(self):
        self.error = None
        self.gate = threading.Event()
        self.gate.set()
        self.images = []

    def answer(self, image, questions):
        assert self.gate.wait(20)
        self.images.append(image)
        if self.error:
            raise self.error
        first = image[..., 0].mean() > image[..., 1].mean()
        words = "red" if first else "green"
        return [self.reply(q, 0 if first else len(q.options) - 1) if not isinstance(q, Text) else
                Answer(words, 1.0, usage=self.words) for q in questions]  # fmt: skip

    def reply(self, question, best):
        rest = 0.1 / (len(question.options) - 1)
        probabilities = tuple(0.9 if i == best else rest for i in range(len(question.options)))
        return Answer(question.options[best], 0.9, question.options, probabilities, self.decision)

    def describe_self(self):
        return {"family": "scripted"}


class World:
    """A classifier, a camera that shows one colour at 20 Hz, and what came out."""

    def __init__(self, ros, load=None, start=True, **parameters):
        self.ros, self.model, self.sent = ros, Scripted(), []
        self.labels = ros.collect(SceneLabel, "scene_label")
        self.descriptions = ros.collect(String, "scene_description")
        self.health = ros.collect(DiagnosticArray, "/diagnostics")
        parameters = {"label.rate": 50.0, "description.rate": 10.0, **parameters}
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in parameters.items()]
        self.classifier = ros.add(Classifier(load or (lambda *_: self.model), parameter_overrides=overrides))
        self.camera = ros.node.create_publisher(Image, "camera/image_raw", qos_profile_sensor_data)
        self.colour, self.changes, self.stamp = RED, {}, None
        self.timer = ros.node.create_timer(0.05, self.show)
        if start:
            run.autostart(self.classifier)

    def show(self):
        message = Image(height=24, width=32, encoding="rgb8", step=96)
        message.header.stamp = self.stamp or self.ros.node.get_clock().now().to_msg()
        message.header.frame_id = "camera_optical_frame"
        message.data = array.array("B", np.full((24, 32, 3), self.colour, np.uint8).tobytes())
        for name, value in self.changes.items():
            setattr(message, name, value)
        self.sent.append((message.header.stamp.sec, message.header.stamp.nanosec))
        self.camera.publish(message)

    def ask(self, *questions, **more):
        return self.ros.call(Ask, "ask", Ask.Request(questions=list(questions), **more))

    def until_label(self, label):
        self.labels.clear()
        return self.ros.until(lambda: next((m for m in self.labels if m.label == label), None), f"label {label}")

    def until_health(self, word, level=None):
        def found():
            for status in (s for m in self.health for s in m.status):
                if word in status.message and level in (None, status.level):
                    return status

        self.health.clear()
        return self.ros.until(found, f"health with {word!r}, but {[m.status[0].message for m in self.health][-1:]}")

    def lifecycle(self, transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.ros.call(ChangeState, "classifier/change_state", request).success

    def state(self):
        return self.ros.call(GetState, "classifier/get_state", GetState.Request()).current_state.label


SIDE = Question(name="side", type=Question.CHOICE, prompt="where is it?", options=["left", "right"])
BALL = Question(name="ball", type=Question.YES_NO, prompt="is there a ball?")
WORDS = Question(name="words", type=Question.TEXT, prompt="describe the scene")
