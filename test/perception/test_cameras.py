"""Several cameras and one model, without ROS: each is answered as if it were alone, and bears its own faults."""

from __future__ import annotations

import array
import threading
import time
from types import SimpleNamespace

import numpy as np
import perception_settings
import pytest

from vlm_perception.models.base import ModelError, ModelOutOfMemoryError
from vlm_perception.models.loader import load_model
from vlm_perception.perception import camera
from vlm_perception.perception.camera import Camera
from vlm_perception.perception.image_message import decode
from vlm_perception.perception.inference import Job, OomBackoff, answer
from vlm_perception.perception.outputs import Description, Fault, Label
from vlm_perception.perception.smoothing import SmoothingSettings
from vlm_perception.perception.worker import Worker
from vlm_perception.questions import Answer, Choice, MirroredChoice, Text, YesNo

LABEL = Choice("what is ahead?", ("dark", "grey", "bright"))
SIDE = Choice("where is it?", ("left", "right"))
WORDS = Text("describe the scene", 12)
DARK, GREY, BRIGHT = 10, 128, 240


class Scripted:
    """Says how bright an image is; notes the brightness of the images of each call; `bad` images fail."""

    name = "scripted"

    def __init__(self, most):
        self.calls, self.bad, self.most = [], set(), most
        self.gate = threading.Event()
        self.gate.set()

    def answer(self, image, questions):
        return self.answer_batch([image], questions)[0]

    def answer_batch(self, images, questions):
        shown = [int(image[0, 0, 0]) for image in images]
        self.calls.append(shown)
        assert self.gate.wait(20)
        if len(images) * len(questions) > self.most:
            raise ModelOutOfMemoryError("too much at once")
        if self.bad & set(shown):
            raise ModelError("this image is too much for me")
        return [[self.reply(question, int(image[0, 0, 0])) for question in questions] for image in images]

    def reply(self, question, brightness):
        if isinstance(question, Text):
            return Answer(f"brightness {brightness}", 1.0)
        best = min(brightness * len(question.options) // 256, len(question.options) - 1)
        probabilities = tuple(float(i == best) for i in range(len(question.options)))
        return Answer(question.options[best], 1.0, question.options, probabilities)

    def describe_self(self):
        return {}


class Bench:
    """A worker with cameras that show one brightness each, and what it told of which camera."""

    def __init__(self, model, cameras, **changes):
        settings = perception_settings.settings(LABEL, WORDS, **{"label_rate": 1e6, "batch_window": 0.0, **changes})
        self.labels, self.words, self.answers, self.faults = [], [], [], []
        self.news = threading.Condition()
        self.broken: set[str] = set()
        self.model = model
        self.cameras = {name: Camera(name, settings, time.time_ns) for name in cameras}
        self.worker = Worker(lambda: model, settings, list(self.cameras.values()), self.publish)
        self.worker.look(True)
        self.worker.start()
        self.wait(lambda: self.worker.state == "ready", "model")
        model.calls.clear()

    def show(self, camera, brightness, encoding="rgb8", stamp=None):
        sec, nanosec = divmod(stamp or time.time_ns(), 1_000_000_000)
        header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id=camera)
        data = array.array("B", bytes([brightness]) * (24 * 32 * 3))
        message = SimpleNamespace(header=header, height=24, width=32, step=96, encoding=encoding, is_bigendian=0)
        message.data = data
        if problem := self.cameras[camera].put(message):
            self.note(self.faults, (camera, problem.kind))
        self.worker.wake()

    def ask(self, camera, *questions):
        def replied(reply):
            if error := reply.exception():
                self.note(self.answers, (camera, "", str(error)))
            else:
                frame, answers = reply.result()
                self.note(self.answers, (camera, frame.camera, answers[0].value))

        self.worker.ask(self.cameras[camera], list(questions)).add_done_callback(replied)

    def hold(self, *show):
        """Show images to a model that is busy with another one meanwhile."""
        self.model.gate.clear()
        self.show(*show[0])
        self.wait(lambda: self.model.calls, "call")
        self.model.calls.clear()
        for one in show[1:]:
            self.show(*one)

    def wait(self, condition, what):
        for _ in range(2000):
            if condition():
                return
            with self.news:
                self.news.wait(0.01)
        pytest.fail(f"no {what}, but {self.labels}, {self.words}, {self.faults}")

    def note(self, what, value):
        with self.news:
            what.append(value)
            self.news.notify()

    def publish(self, output):
        if isinstance(output, Label):
            if output.frame.camera in self.broken:
                raise RuntimeError("no room on the topic")
            self.note(self.labels, (output.frame.camera, output.answer.value, output.smoothed.label))
        elif isinstance(output, Description):
            self.note(self.words, (output.frame.camera, output.answer.value))
        elif isinstance(output, Fault):
            self.note(self.faults, (output.camera, output.kind))
        else:
            self.note([], None)


@pytest.fixture
def bench():
    made = []

    def make(*cameras, most=1000, **changes):
        made.append(Bench(Scripted(most), cameras, **changes))
        return made[-1]

    yield make
    for one in made:
        one.model.gate.set()
        one.worker.stop()
        one.worker.join(20)
        assert not one.worker.is_alive()


def test_images_that_wait_for_the_model_go_to_it_together_and_each_camera_hears_its_own(bench):
    one = bench("front", "left", "right")
    one.hold(("front", DARK), ("left", GREY), ("right", BRIGHT), ("front", GREY))
    one.model.gate.set()
    one.wait(lambda: len(one.labels) == 4, "labels")
    assert one.model.calls == [[GREY, BRIGHT, GREY]], "front comes last, as it was looked at just now"
    assert [label[:2] for label in one.labels] == [
        ("front", "dark"), ("left", "grey"), ("right", "bright"), ("front", "grey"),
    ]  # fmt: skip
    assert one.worker.frames_at_once == 3


def test_the_smoothed_label_of_a_camera_is_made_of_its_own_images(bench):
    one = bench("front", "left", smoothing=SmoothingSettings("majority", enter_threshold=0.6, leave_threshold=0.6))
    for number in range(1, 4):
        one.show("front", DARK)
        one.show("left", BRIGHT)
        one.wait(lambda n=number: len(one.labels) == 2 * n, "labels")
    assert {label for label in one.labels if label[0] == "front"} == {("front", "dark", "dark")}
    assert {label for label in one.labels if label[0] == "left"} == {("left", "bright", "bright")}


def test_no_more_than_max_batch_go_together_and_the_others_are_next(bench):
    one = bench("a", "b", "c", "d", "e", max_batch=2)
    one.hold(("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5), ("a", 6))
    one.model.gate.set()
    one.wait(lambda: len(one.labels) == 6, "labels")
    assert one.model.calls == [[2, 3], [4, 5], [6]]


def test_who_asks_comes_first_about_his_camera_and_the_others_have_their_turn_before_he_asks_again(bench):
    one = bench("front", "left", "right")
    one.hold(("front", 1), ("front", 2), ("left", 3), ("right", 4))
    one.ask("right", SIDE)
    answered = one.note

    def ask_again(what, value):
        answered(what, value)
        if what is one.answers and len(one.answers) < 3:
            one.ask("right", SIDE)

    one.note = ask_again
    one.model.gate.set()
    one.wait(lambda: len(one.answers) == 3, "answers")
    assert one.model.calls[:2] == [[4], [3, 2]]
    assert one.answers == [("right", "right", "left")] * 3
    assert sorted(label[0] for label in one.labels) == ["front", "front", "left", "right"]


def test_a_camera_that_is_asked_about_and_shows_nothing_fails_for_itself(bench):
    one = bench("front", "left")
    one.show("front", DARK)
    one.wait(lambda: one.labels, "label")
    one.ask("left", SIDE)
    one.ask("front", SIDE)
    one.wait(lambda: len(one.answers) == 2, "answers")
    assert sorted(one.answers) == [("front", "front", "left"), ("left", "", "no image has come yet")]


def test_corrupt_frozen_and_dead_cameras_do_not_hold_up_the_others_and_their_faults_are_their_own(bench):
    one = bench("good", "corrupt", "frozen", "dead", batch_window=0.02)
    frozen = time.time_ns()
    for number in range(1, 11):
        one.show("corrupt", 1, encoding="rgb9")
        one.show("frozen", 2, stamp=frozen)
        one.show("good", 200 + number)
        one.wait(lambda n=number: sum(label[0] == "good" for label in one.labels) == n, "label of the good camera")
    assert {label[0] for label in one.labels} == {"good", "frozen"}
    assert sum(label[0] == "frozen" for label in one.labels) == 1
    assert set(one.faults) == {("corrupt", "corrupt image"), ("frozen", "repeated stamp")}
    one.ask("corrupt", SIDE)
    one.wait(lambda: one.answers, "answer")
    assert "rgb9" in one.answers[0][2]


def test_an_image_that_is_of_no_use_costs_the_others_no_decoding(bench, monkeypatch):
    one, decoded = bench("good", "future", max_frame_age=1.0), []
    monkeypatch.setattr(camera, "decode", lambda message: decoded.append(message.header.frame_id) or decode(message))
    one.show("future", 1, stamp=time.time_ns() + 10**12)
    one.show("good", 2)
    one.wait(lambda: one.labels, "label")
    one.ask("future", SIDE)
    one.wait(lambda: one.answers, "answer")
    assert decoded == ["good"] and "in the future" in one.answers[0][2]


def test_an_image_that_is_too_much_for_the_model_does_not_spoil_the_others(bench):
    one = bench("front", "left", "right", description_rate=10.0)
    one.model.bad = {GREY}
    one.hold(("front", DARK), ("left", GREY), ("right", BRIGHT))
    one.model.gate.set()
    one.wait(lambda: len(one.labels) == 2 and len(one.words) == 2, "labels and words")
    assert [label[0] for label in one.labels] == ["front", "right"]
    assert set(one.faults) == {("left", "model")}
    assert {words[0] for words in one.words} == {"front", "right"}


def test_a_label_that_cannot_be_told_does_not_silence_the_other_cameras(bench):
    one = bench("front", "left", "right")
    one.broken.add("left")
    one.hold(("front", 1), ("left", GREY), ("right", BRIGHT))
    one.model.gate.set()
    one.wait(lambda: len(one.labels) == 2 and one.faults, "label and fault")
    assert [label[0] for label in one.labels] == ["front", "right"] and one.faults == [("left", "internal")]


def test_too_many_images_for_the_memory_are_looked_at_in_portions(bench):
    one = bench("a", "b", "c", "d")
    one.model.most = 2
    one.hold(("a", 1), ("b", 2), ("c", 3), ("d", 4))
    one.model.gate.set()
    one.wait(lambda: len(one.labels) == 4, "labels")
    assert [len(call) for call in one.model.calls] == [3, 1, 1, 1]
    assert one.faults == [(None, "out of memory")], "the memory is all cameras'"


def test_a_warm_up_that_is_too_much_for_the_memory_does_not_end_the_load_and_is_remembered(bench):
    one = bench("a", "b", "c", most=2)
    assert one.faults == [(None, "out of memory")]
    one.hold(("a", 1), ("b", 2), ("c", 3))
    one.model.gate.set()
    one.wait(lambda: len(one.labels) == 3, "labels")
    assert one.model.calls == [[2], [3]] and len(one.faults) == 1


def test_descriptions_are_made_together_too(bench):
    one = bench("front", "left", "right", description_rate=10.0)
    one.hold(("front", 1), ("left", 2), ("right", 3))
    one.model.gate.set()
    one.wait(lambda: len(one.words) == 3, "words")
    assert one.words == [("front", "brightness 1"), ("left", "brightness 2"), ("right", "brightness 3")]
    assert one.model.calls[-2:] == [[2, 3], [2, 3]], "the labels, then the words"


def test_the_nano_model_answers_several_images_as_one_by_one():
    """Whatever is asked about which image: the joint way gives what each image alone gives."""
    model = load_model("nano", "cpu")
    noise = np.random.default_rng(3)
    sizes = [(48, 64), (48, 64), (30, 70), (480, 640)]  # cameras differ
    images = [noise.integers(0, 256, (*size, 3), dtype=np.uint8) // (n + 1) for n, size in enumerate(sizes)]
    there = YesNo("is there a red ball?")
    mirrored = MirroredChoice(SIDE.prompt, SIDE.options)
    asked = [[LABEL], [LABEL, there], [mirrored, LABEL], [WORDS, LABEL]]
    jobs = [Job(SimpleNamespace(image=image), questions) for image, questions in zip(images, asked, strict=True)]
    found = dict(answer(OomBackoff(model, pytest.fail), jobs))
    assert set(found) == set(jobs)
    for image, job in zip(images, jobs, strict=True):
        for question, given in zip(job.questions, found[job], strict=True):
            seen = np.ascontiguousarray(image[:, ::-1]) if question is mirrored else image
            plain = question.plain() if question is mirrored else question
            (alone,) = model.answer(seen, [plain])
            assert given.value == alone.value
            assert given.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
