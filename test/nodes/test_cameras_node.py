"""Several cameras and one classifier over real DDS: labels, words, images, answers and faults of each."""

from __future__ import annotations

import array
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("vlm_perception.srv", reason="the interfaces are not built", exc_type=ImportError)

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from vlm_perception.msg import Question, SceneLabel
from vlm_perception.nodes import run
from vlm_perception.nodes.camera_topics import names_of_cameras
from vlm_perception.nodes.classifier import Classifier
from vlm_perception.parameters import ParameterError
from vlm_perception.questions import Answer, Text
from vlm_perception.srv import Ask

BRIGHTNESS = {"front": 10, "arm/left": 128, "arm/right": 240}
LABELS = {"front": "dark", "arm/left": "grey", "arm/right": "bright"}
SIDE = Question(name="side", type=Question.CHOICE, prompt="which?", options=["dark", "grey", "bright"])


class Brightness:
    """Says how bright an image is; `together` is how many there were at once at most."""

    name = "brightness"
    together = 0

    def answer(self, image, questions):
        return self.answer_batch([image], questions)[0]

    def answer_batch(self, images, questions):
        self.together = max(self.together, len(images))
        return [[self.reply(question, int(image.mean())) for question in questions] for image in images]

    def reply(self, question, brightness):
        if isinstance(question, Text):
            return Answer(f"brightness {brightness}", 1.0)
        best = brightness * len(question.options) // 256
        probabilities = tuple(float(i == best) for i in range(len(question.options)))
        return Answer(question.options[best], 1.0, question.options, probabilities)

    def describe_self(self):
        return {}


class World:
    """Three cameras at 20 Hz, one classifier, and what came out, by camera."""

    def __init__(self, ros, compressed=False, **parameters):
        self.ros, self.model, self.compressed = ros, Brightness(), compressed
        self.labels = {c: ros.collect(SceneLabel, f"{c}/scene_label") for c in BRIGHTNESS}
        self.words = {c: ros.collect(String, f"{c}/scene_description") for c in BRIGHTNESS}
        self.health = ros.collect(DiagnosticArray, "/diagnostics")
        self.topics = [f"{camera}/image_raw" for camera in BRIGHTNESS]
        parameters = {
            "camera_topics": self.topics,
            "image_transport": "compressed" if compressed else "raw",
            "label.options": list(LABELS.values()),
            "label.rate": 50.0,
            "description.rate": 10.0,
            "max_frame_age": 0.5,
            **parameters,
        }
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.classifier = ros.add(Classifier(lambda *_: self.model, parameter_overrides=overrides))
        kind, ending = (CompressedImage, "/compressed") if compressed else (Image, "")
        self.cameras = {
            camera: ros.node.create_publisher(kind, topic + ending, qos_profile_sensor_data)
            for camera, topic in zip(BRIGHTNESS, self.topics, strict=True)
        }
        self.encodings = dict.fromkeys(BRIGHTNESS, "rgb8")
        ros.node.create_timer(0.05, self.show)
        run.autostart(self.classifier)

    def show(self):
        for camera, publisher in self.cameras.items():
            publisher.publish(self.image(camera))

    def image(self, camera):
        pixels = np.full((24, 32, 3), BRIGHTNESS[camera], np.uint8)
        if self.compressed:
            import cv2

            message = CompressedImage(format="png", data=array.array("B", cv2.imencode(".png", pixels)[1].tobytes()))
        else:
            message = Image(height=24, width=32, encoding=self.encodings[camera], step=96)
            message.data = array.array("B", pixels.tobytes())
        message.header.stamp = self.ros.node.get_clock().now().to_msg()
        message.header.frame_id = f"{camera}_optical_frame"
        return message

    def until_labels(self, *cameras):
        """Wait for a new label of each of `cameras`; return them."""
        for camera in cameras:
            self.labels[camera].clear()
        self.ros.until(lambda: all(self.labels[c] and self.labels[c][-1].label == LABELS[c] for c in cameras), "labels")
        return [self.labels[camera][-1] for camera in cameras]

    def ask(self, camera):
        return self.ros.call(Ask, "ask", Ask.Request(camera=camera, questions=[SIDE]))

    def status(self, name, words):
        """Wait until the diagnostics of `name` say `words`."""

        def found():
            statuses = [status for message in self.health for status in message.status]
            return next((s for s in statuses if s.name == name and words in s.message), None)

        self.health.clear()
        status = self.ros.until(found, f"{words!r} of {name}")
        return SimpleNamespace(
            level=status.level, message=status.message, values={value.key: value.value for value in status.values}
        )


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "compressed"])
def test_each_camera_has_its_own_labels_words_and_answers(ros, compressed):
    world = World(ros, compressed)
    for camera, label in zip(BRIGHTNESS, world.until_labels(*BRIGHTNESS), strict=True):
        assert (label.camera, label.header.frame_id) == (camera, f"{camera}_optical_frame")
        assert label.raw_label == LABELS[camera]
        reply = world.ask(camera)
        assert reply.success and reply.answers[0].value == LABELS[camera]
        assert reply.header.frame_id == f"{camera}_optical_frame"
        ros.until(lambda c=camera: world.words[c], "words")
        assert {message.data for message in world.words[camera]} == {f"brightness {BRIGHTNESS[camera]}"}
    assert world.ask("").answers[0].value == "dark", "nobody named: the first"
    assert world.model.together > 1


def test_a_camera_that_is_not_there_is_refused_with_the_names_of_those_that_are(ros):
    world = World(ros)
    world.until_labels("front")
    reply = world.ask("left")
    assert not reply.success and "no camera 'left', expected one of front, arm/left, arm/right" in reply.message


def test_the_annotated_image_of_each_camera_is_a_topic_of_its_own(ros):
    world = World(ros, annotated_image_rate=50.0)
    images = ros.collect(Image, "classifier/arm/right/annotated_image", qos_profile_sensor_data)
    image = ros.until(lambda: images, "annotated image")[0]
    assert image.header.frame_id == "arm/right_optical_frame" and set(image.data) > {240}
    world.until_labels("front")


def test_one_camera_dead_and_one_corrupt_leave_the_third_as_it_was_and_are_named(ros):
    world = World(ros)
    world.until_labels(*BRIGHTNESS)
    world.status("classifier", "looking with 3 cameras")
    dead = world.cameras.pop("arm/left")
    world.encodings["arm/right"] = "rgb9"
    status = world.status("classifier: arm/left", "has the camera stopped?")
    assert status.level == DiagnosticStatus.ERROR and status.values["faults, camera silent"] == "1"
    status = world.status("classifier: arm/right", "rgb9")
    assert int(status.values["faults, corrupt image"]) > 0 and "faults, camera silent" not in status.values
    status = world.status("classifier: front", "looking")
    assert status.level == DiagnosticStatus.OK and not any(key.startswith("faults") for key in status.values)
    assert float(status.values["labels per second"]) > 5
    assert world.status("classifier", "arm/left: the newest image came").level == DiagnosticStatus.WARN
    assert "has the camera stopped?" in world.ask("arm/left").message and "rgb9" in world.ask("arm/right").message
    assert world.ask("front").success
    world.until_labels("front")

    world.encodings["arm/right"] = "rgb8"
    world.cameras["arm/left"] = dead
    world.until_labels(*BRIGHTNESS)


def test_a_dead_camera_is_not_advised_to_take_what_the_node_has_or_makes(ros):
    world = World(ros)
    ros.node.destroy_publisher(world.cameras.pop("arm/left"))
    ros.node.create_publisher(Image, "spare/image", 10)
    world.until_labels("front", "arm/right")
    message = world.status("classifier: arm/left", "spare").message
    assert "nobody publishes /arm/left/image_raw, but /spare/image: name it" in message


@pytest.mark.parametrize(
    ("topics", "words"),
    [
        ([], ["empty", "camera/image_raw"]),
        ([""], ["''", "front/image_raw"]),
        (["front/image_raw", ""], ["''"]),
        (["front/image raw"], ["'front/image raw'", "letters"]),
        (["front//image_raw"], ["'front//image_raw'"]),
        (["front/image_raw", "front/image_raw"], ["both name the camera 'front'"]),
        (
            ["front/colour", "/front/grey"],
            ["'front/colour' and '/front/grey'", "both name the camera 'front'", "remap"],
        ),
    ],
)
def test_topics_that_cannot_be_cameras_are_refused_in_words(ros, topics, words):
    with pytest.raises(ParameterError) as error:
        Classifier(parameter_overrides=[Parameter("camera_topics", Parameter.Type.STRING_ARRAY, topics)])
    assert all(word in str(error.value) for word in ["camera_topics", *words]), error.value


def test_topics_that_are_one_after_remapping_are_refused(ros):
    overrides = [Parameter("camera_topics", value=["front/image_raw", "left/image_raw"])]
    with pytest.raises(ParameterError, match="/front/image_raw"):
        Classifier(parameter_overrides=overrides, cli_args=["--ros-args", "-r", "left/image_raw:=front/image_raw"])


def test_a_camera_is_called_as_its_topic_without_the_last_part():
    topics = ["image", "camera/image_raw", "/robot/arm/left/image_rect"]
    assert names_of_cameras(topics) == ["image", "camera", "robot/arm/left"]
