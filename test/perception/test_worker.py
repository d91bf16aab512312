"""The thread that owns the model, without ROS: what it asks when, and about which image."""

from __future__ import annotations

import array
import threading
import time
from types import SimpleNamespace

import numpy as np
import perception_settings
import pytest

from vlm_perception.models.loader import load_model
from vlm_perception.perception import camera, engine
from vlm_perception.perception.camera import Camera
from vlm_perception.perception.outputs import Description, Failed, Fault, Label, Loaded
from vlm_perception.perception.worker import Worker
from vlm_perception.questions import Answer, Choice, Text, Usage

LABEL = Choice("what is ahead?", ("clear", "wall"))
SIDE = Choice("where is it?", ("left", "right"))
WORDS = Text("describe the scene", 40)
NAMES = {LABEL.prompt: "label", SIDE.prompt: "side", WORDS.prompt: "description"}


def settings(**changes):
    return perception_settings.settings(LABEL, WORDS, **{"label_rate": 100.0, "description_rate": 10.0, **changes})


class Scripted:
    """Answers the first option; notes each call; `during` is called at the time of each."""

    name = "scripted"

    def __init__(self):
        self.calls, self.images, self.during = [], [], lambda questions: None

    def answer(self, image, questions):
        self.calls.append([NAMES.get(question.prompt, "other") for question in questions])
        self.images.append(image)
        self.during(questions)
        usage = Usage(2.0, 0.5, 4, 3 << 20)
        return [
            Answer("words", 1.0, usage=usage)
            if isinstance(q, Text)
            else Answer(q.options[0], 0.9, q.options, (0.9, 0.1), usage)
            for q in questions
        ]

    def describe_self(self):
        return {}


class Bench:
    """A worker at work, and what came out: `heard` grows by (what, value)."""

    def __init__(self, load, **changes):
        self.heard, self.news = [], threading.Condition()
        self.stamps = []
        self.clock = time.time_ns
        self.camera = Camera("camera", settings(**changes), lambda: self.clock())
        self.worker = Worker(load, settings(**changes), [self.camera], self.publish)
        self.worker.look(True)

    def show(self, height=24, width=32, seed=0, encoding="rgb8"):
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        sec, nanosec = divmod(self.clock(), 1_000_000_000)
        header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id="camera")
        problem = self.camera.put(
            SimpleNamespace(
                header=header,
                height=height,
                width=width,
                step=3 * width,
                encoding=encoding,
                is_bigendian=0,
                data=array.array("B", pixels.tobytes()),
            )
        )
        assert problem is None
        self.worker.wake()

    def ask(self, *questions, newer_than=0):
        def replied(reply):
            if error := reply.exception():
                self.say("failed", str(error))
            else:
                self.say("asked", NAMES.get(questions[0].prompt, "other"))
                self.stamps.append(reply.result().frame.stamp)

        self.worker.ask(self.camera, list(questions), newer_than).add_done_callback(replied)

    def see(self):
        """Start, and answer about a first image."""
        self.worker.start()
        self.show()
        self.ask(SIDE)
        self.wait_for("asked")

    def say(self, what, value):
        with self.news:
            self.heard.append((what, value))
            self.news.notify()

    def wait_for(self, *what):
        with self.news:
            done = self.news.wait_for(lambda: all(w in [heard for heard, _ in self.heard] for w in what), 20)
        assert done, f"{what} did not come, but {self.heard}"

    def publish(self, output):
        what = {Loaded: "loaded", Failed: "gone", Label: "labelled", Description: "described", Fault: "fault"}
        self.say(what[type(output)], f"{output.kind}: {output.error}" if isinstance(output, Fault) else output)


@pytest.fixture
def bench():
    made = []

    def make(load, **changes):
        made.append(Bench(load, **changes))
        return made[-1]

    yield make
    for one in made:
        one.worker.stop()
        if one.worker.ident:
            one.worker.join(20)
            assert not one.worker.is_alive()


def test_the_warm_up_asks_the_real_questions_about_the_cameras_size_and_few_words(bench):
    asked, model = [], Scripted()
    model.during = asked.extend
    one = bench(lambda: model)
    one.show(96, 128)
    one.worker.start()
    one.wait_for("loaded")
    assert asked[0] == LABEL and (asked[1].prompt, asked[1].max_new_tokens) == (WORDS.prompt, 2)
    assert [image.shape for image in model.images[:2]] == [(96, 128, 3)] * 2
    assert model.images[0] is model.images[1] and not model.images[0].flags.writeable and not model.images[0].any()


def test_without_an_image_or_a_description_the_warm_up_is_as_small_as_can_be(bench):
    model = Scripted()
    one = bench(lambda: model, description_rate=0.0)
    one.worker.start()
    one.wait_for("loaded")
    assert model.calls == [["label"]] and model.images[0].shape == (480, 640, 3)


def test_a_broken_first_image_does_not_spoil_the_warm_up(bench):
    model = Scripted()
    one = bench(lambda: model)
    one.show(encoding="rgb9")
    one.worker.start()
    one.wait_for("loaded")


def test_of_the_images_that_come_while_the_model_is_busy_only_the_newest_is_decoded(bench, monkeypatch):
    decoded = []
    decode = camera.decode
    monkeypatch.setattr(camera, "decode", lambda message: decoded.append(message) or decode(message))
    model = Scripted()
    one = bench(lambda: model, description_rate=0.0)
    one.worker.start()
    one.wait_for("loaded")

    def five_come(_):
        model.during = lambda _: None
        for seed in range(1, 6):
            one.show(seed=seed)

    model.during = five_come
    one.show()
    with one.news:
        assert one.news.wait_for(lambda: [what for what, _ in one.heard].count("labelled") == 2, 20), one.heard
    assert len(decoded) == 2
    newest = np.random.default_rng(5).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    assert np.array_equal(model.images[-1], newest)


def test_the_description_waits_while_somebody_asks(bench):
    model = Scripted()
    one = bench(lambda: model)
    more = [SIDE, SIDE]

    def somebody_else_asks(questions):
        if any(question.prompt == SIDE.prompt for question in questions) and more:
            one.ask(more.pop())

    model.during = somebody_else_asks
    one.show()
    one.ask(SIDE)
    one.worker.start()
    one.wait_for("described")
    assert model.calls[:2] == [["label"], ["description"]], "the warm-up"
    assert model.calls[2:6] == [["side", "label"], ["side"], ["side"], ["description"]]
    assert [value for what, value in one.heard if what == "asked"] == ["side"] * 3


def test_who_has_seen_an_image_waits_for_a_newer_one_and_holds_up_nobody(bench):
    model = Scripted()
    one = bench(lambda: model, label_rate=1e6)
    one.worker.start()
    one.show()
    one.wait_for("labelled", "described")
    seen = next(value for what, value in one.heard if what == "labelled").frame.stamp
    del model.calls[:], one.heard[:]
    one.ask(SIDE, newer_than=seen)
    time.sleep(3 * engine.LOOK_AGAIN)
    assert not model.calls and not one.heard
    one.ask(Choice("which one?", ("a", "b")))
    one.wait_for("asked")
    assert [call[0] for call in model.calls] == ["other"] and one.stamps == [seen], "who wants any gets it at once"
    del model.calls[:], one.heard[:]
    one.show(seed=1)
    one.wait_for("asked", "labelled")
    assert model.calls[0] == ["side", "label"], "together, about the newer one"
    assert one.stamps[1] > seen
    one.ask(SIDE, newer_than=seen)
    with one.news:
        assert one.news.wait_for(lambda: len(one.stamps) == 3, 20), "there is a newer one already"
    assert one.stamps[2] == one.stamps[1]


def test_descriptions_go_on_while_somebody_waits_for_a_newer_image(bench):
    one = bench(Scripted, label_rate=0.0, description_rate=0.0)
    one.see()
    one.ask(SIDE, newer_than=one.stamps[0])
    one.worker.change(settings(label_rate=1.0, description_rate=1.0))
    one.wait_for("labelled", "described")


def test_what_is_asked_about_the_time_after_now_is_not_answered_about_before(bench):
    one = bench(Scripted, label_rate=0.0, description_rate=0.0)
    one.worker.start()
    one.wait_for("loaded")
    one.show()
    then = time.time_ns()
    one.ask(SIDE, newer_than=then)
    time.sleep(3 * engine.LOOK_AGAIN)
    assert not one.stamps
    one.show(seed=1)
    one.wait_for("asked")
    assert one.stamps[0] > then


def test_a_corrupt_image_is_not_the_newer_one_that_somebody_waits_for(bench):
    model = Scripted()
    one = bench(lambda: model, label_rate=0.0, description_rate=0.0)
    one.see()
    model.calls.clear()
    one.heard.clear()
    one.ask(SIDE, newer_than=one.stamps[0])
    for _ in range(3):
        one.show(encoding="rgb9")
        one.wait_for("fault")
        one.heard.clear()
        time.sleep(engine.LOOK_AGAIN)
    assert not model.calls
    one.show(seed=1)
    one.wait_for("asked")
    assert one.stamps[1] > one.stamps[0] and len(model.calls) == 1


def test_who_waits_for_a_newer_image_is_not_left_waiting_by_a_clock_that_jumps_back(bench):
    one = bench(Scripted, label_rate=0.0, description_rate=0.0)
    one.see()
    one.clock = lambda: time.time_ns() - 3600 * 10**9
    one.show(seed=1)
    one.ask(SIDE, newer_than=one.stamps[0])
    with one.news:
        assert one.news.wait_for(lambda: len(one.stamps) == 2, 20), one.heard
    assert one.stamps[1] < one.stamps[0]


def test_stopping_tells_who_waits_for_a_newer_image(bench):
    one = bench(Scripted, label_rate=0.0, description_rate=0.0)
    one.see()
    one.ask(SIDE, newer_than=one.stamps[0])
    one.worker.look(False)
    one.wait_for("failed")
    assert one.heard[-1] == ("failed", "the classifier is not active")


def test_nobody_waits_for_a_newer_image_of_a_camera_that_has_stopped(bench):
    one = bench(Scripted, label_rate=0.0, description_rate=0.0, max_frame_age=0.4)
    one.worker.start()
    one.wait_for("loaded")
    one.show()
    one.ask(SIDE)
    one.wait_for("asked")
    one.ask(SIDE, newer_than=one.stamps[0])
    one.wait_for("failed")
    assert "has the camera stopped?" in one.heard[-1][1], one.heard


def test_who_asks_again_at_once_gets_every_answer_and_the_label_comes_with_it_and_without_him_soon(bench, monkeypatch):
    monkeypatch.setattr(engine, "ASKED_AGAIN", 0.3)  # a busy machine must not make the difference
    model, shown = Scripted(), iter(range(1, 4))
    one = bench(lambda: model, label_rate=1e6, description_rate=0.0)
    say = one.say

    def look_and_ask_again(what, value):
        if what == "asked" and (seed := next(shown, None)):
            one.show(seed=seed)
            if seed < 3:
                one.ask(SIDE)
        say(what, value)

    one.say = look_and_ask_again
    one.show()
    one.ask(SIDE)
    one.worker.start()
    with one.news:
        assert one.news.wait_for(lambda: [what for what, _ in one.heard].count("labelled") == 4, 20), one.heard
    assert model.calls[1:] == [["side", "label"]] * 3 + [["label"]]


def test_a_failed_answer_is_not_followed_by_a_description(bench):
    model = Scripted()
    one = bench(lambda: model)
    one.worker.start()
    one.wait_for("loaded")
    model.calls.clear()

    def fail(questions):
        raise MemoryError("full")

    model.during = fail
    one.show()
    one.wait_for("fault")
    one.ask(SIDE)
    one.wait_for("failed")
    assert model.calls == [["label"]]


def test_what_the_last_answers_cost_is_known(bench):
    one = bench(Scripted)
    one.worker.start()
    one.show()
    one.wait_for("labelled", "described")
    figures = one.worker.metrics()
    assert figures["decision time [s]"] == 2.0 and figures["description tokens per second"] == pytest.approx(2.0)


def test_label_and_description_of_an_image_encode_it_once(bench):
    model = load_model("nano", "cpu")
    encoded = []
    encode = model._encode
    model._encode = lambda images: encoded.append(images[0]) or encode(images)
    one = bench(lambda: model)
    one.worker.start()
    one.wait_for("loaded")
    encoded.clear()
    one.show()
    one.wait_for("labelled", "described")
    (words,) = [value for what, value in one.heard if what == "described"]
    assert len(encoded) == 1 and encoded[0] is words.frame.image and not words.frame.image.flags.writeable
    usage = words.answer.usage
    assert usage.tokens > 0 and usage.time_to_first_token < usage.seconds


def test_a_question_that_cannot_be_asked_is_the_askers_fault_alone(bench):
    model = Scripted()

    def during(questions):
        if SIDE in questions:
            raise ValueError("its options are 20000 tokens long")

    model.during = during
    one = bench(lambda: model, label_rate=0.0, description_rate=0.0)
    one.worker.start()
    one.show()
    one.ask(SIDE)
    one.wait_for("failed")
    assert ("failed", "its options are 20000 tokens long") in one.heard
    assert "fault" not in [what for what, _ in one.heard]
