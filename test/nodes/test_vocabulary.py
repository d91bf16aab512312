"""Labels, prompts and descriptions that change while the real nodes run, in any language, over DDS."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("vlm_perception.srv", reason="the interfaces are not built", exc_type=ImportError)

import dual_encoders
import tiny_models
from classifier_world import GREEN, RED, Scripted, World
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.parameter import Parameter

from vlm_perception.models.loader import NANO_FOLDER, load_first, load_model
from vlm_perception.models.scope import FILE
from vlm_perception.msg import Question
from vlm_perception.questions import Answer, Choice, Text

LABELS, WORDS = ["门口", "墙"], ["通向另一个房间的开口", "挡住去路的平面"]
IMAGES = {colour: np.full((24, 32, 3), colour, np.uint8) for colour in (RED, GREEN)}


def set_together(ros, **values):
    """Set parameters by one call of set_parameters_atomically; its result."""
    parameters = [Parameter(name.replace("__", "."), value=value).to_parameter_msg() for name, value in values.items()]
    request = SetParametersAtomically.Request(parameters=parameters)
    return ros.call(SetParametersAtomically, "classifier/set_parameters_atomically", request).result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A chat model whose tokenizer knows Chinese."""
    return tiny_models.save("qwen2.5-vl", tmp_path_factory.mktemp("model"))


def test_chinese_labels_descriptions_and_questions_end_to_end(ros, folder):
    model = load_model(str(folder), device="cpu", dtype="float32")
    world = World(
        ros, load=load_first, model=str(folder), device="cpu", dtype="float32",
        smoothing__method="none", smoothing__enter_threshold=0.0, smoothing__leave_threshold=0.0,
        description__rate=0.0, ask_timeout=30.0,
    )  # fmt: skip
    ros.until(lambda: world.labels, "label")
    vocabulary = {"label.options": LABELS, "label.prompt": "前面是什么？", "label.descriptions": WORDS}
    assert set_together(ros, **vocabulary).successful

    for colour, image in IMAGES.items():
        world.colour = colour
        (expected,) = model.answer(image, [Choice("前面是什么？", tuple(LABELS), tuple(WORDS))])
        label = ros.until(
            lambda p=expected.probabilities: next(
                (
                    m
                    for m in world.labels
                    if m.choices == LABELS and list(m.probabilities) == pytest.approx(p, abs=1e-4)
                ),
                None,
            ),
            "label with the probabilities that the model gives to these labels and descriptions",
        )
        assert label.raw_label == label.label == expected.value in LABELS

        asked = Question(name="在哪里", prompt="门在哪里？", options=["左边", "右边"], descriptions=["靠左", ""])
        reply = world.ask(asked)
        (expected,) = model.answer(image, [Choice("门在哪里？", ("左边", "右边"), ("靠左", ""))])
        assert reply.success, reply.message
        (answer,) = reply.answers
        assert (answer.name, answer.value, list(answer.options)) == ("在哪里", expected.value, ["左边", "右边"])
        assert list(answer.probabilities) == pytest.approx(expected.probabilities, abs=1e-4)


def test_labels_and_descriptions_change_together_or_not_at_all(ros):
    world = World(ros)
    world.until_label("clear")
    assert set_together(ros, label__options=LABELS, label__descriptions=WORDS).successful
    assert world.until_label("门口").choices == LABELS
    for values, words in [
        ({"label.options": ["a", "b", "c"]}, ["2 label.descriptions for 3 label.options", "set_parameters_atomically"]),
        ({"label.descriptions": ["one"]}, ["1 label.descriptions for 2 label.options"]),
        ({"label.descriptions": ["a", "b\x07"]}, ["control character"]),
        (
            {"label.options": ["a", "b", "c"], "label.descriptions": ["one", "two"]},
            ["2 label.descriptions for 3 label.options"],
        ),
        ({"label.options": ["a", "b"], "label.prompt": ""}, ["prompt", "empty"]),
        ({"label.options": ["a", "b"], "description.prompt": " "}, ["prompt", "empty"]),
    ]:
        result = set_together(ros, **values)
        assert not result.successful and all(word in result.reason for word in words), (values, result.reason)
    request = GetParameters.Request(names=["label.options", "label.descriptions", "description.prompt"])
    kept = ros.call(GetParameters, "classifier/get_parameters", request).values
    assert [list(value.string_array_value) for value in kept[:2]] == [LABELS, WORDS]
    assert kept[2].string_value == "describe the scene"
    assert world.until_label("门口").choices == LABELS
    assert set_together(ros, label__options=["a", "b", "c"], label__descriptions=[], label__rate=40).successful
    assert world.until_label("a").choices == ["a", "b", "c"]


def test_what_is_asked_changes_with_the_next_image_and_smoothing_begins_anew(ros):
    class Obedient:
        """Says the last word of the prompt; the description is its prompt."""

        name = "obedient"

        def answer(self, image, questions):
            return [self.reply(question) for question in questions]

        def reply(self, question):
            if isinstance(question, Text):
                return Answer(question.prompt, 1.0)
            return Scripted().reply(question, question.options.index(question.prompt.split()[-1]))

        def describe_self(self):
            return {}

    world = World(
        ros, load=lambda *_: Obedient(), label__options=["wall", "door"], label__prompt="say wall",
        smoothing__method="majority", smoothing__window=60.0,
    )  # fmt: skip
    world.until_label("wall")
    ros.until(lambda: len(world.labels) > 10, "ten labels that the majority would remember")
    world.labels.clear()
    assert set_together(ros, label__prompt="say door", description__prompt="in a sonnet").successful
    label = ros.until(
        lambda: next((m for m in world.labels if m.raw_label == "door"), None), "answer to the new prompt"
    )
    assert label.label == "door" and label.confidence == 1.0
    ros.until(lambda: any(m.data == "in a sonnet" for m in world.descriptions), "description by the new prompt")


def test_labels_that_the_model_cannot_read_are_named_and_the_node_goes_on(ros, tmp_path):
    for file in NANO_FOLDER.iterdir():
        if file.name != FILE:  # with which they would be refused before the tokenizer sees them
            (tmp_path / file.name).symlink_to(file)
    rest = {"smoothing.method": "none", "smoothing.enter_threshold": 0.0, "smoothing.leave_threshold": 0.0}
    world = World(ros, load=load_first, device="cpu", model=str(tmp_path), **rest)
    ros.until(lambda: world.labels, "label")
    assert ros.set_parameter("classifier", "label.options", LABELS).successful
    status = world.until_health("'门口'")
    assert "does not know" in status.message
    world.labels.clear()
    reply = world.ask(Question(name="way", prompt="which way is clear?", options=["left", "center", "right", "none"]))
    assert reply.success and reply.answers[0].value in reply.answers[0].options
    assert "'墙'" in world.ask(Question(name="bad", prompt="what is ahead?", options=["墙", "wall"])).message
    assert not world.labels, "nothing is published about labels that cannot be read"
    assert ros.set_parameter("classifier", "label.options", ["wall", "clear"]).successful
    assert ros.until(lambda: world.labels, "label again")[0].choices == ["wall", "clear"]


def test_a_dual_encoder_says_and_answers_in_chinese_and_its_phrases_change(ros, tmp_path):
    for part in dual_encoders.build("chinese_clip", tmp_path):
        part.save_pretrained(tmp_path)
    world = World(
        ros, load=load_first, model=str(tmp_path), device="cpu", dtype="float32", label__options=["门口", "墙"],
        label__prompt="一张{}的照片", description__phrases=["走廊"],
    )  # fmt: skip
    ros.until(lambda: any(m.data == "走廊 (100%)" for m in world.descriptions), "description by its only phrase")
    assert world.labels[-1].choices == ["门口", "墙"]
    assert set_together(ros, label__options=["有人", "没有人"], description__phrases=["空房间"]).successful
    ros.until(lambda: any(m.data == "空房间 (100%)" for m in world.descriptions), "description by the new phrase")
    label = ros.until(lambda: next((m for m in world.labels if m.choices == ["有人", "没有人"]), None), "new labels")
    model = load_model(str(tmp_path), device="cpu", dtype="float32")
    (expected,) = model.answer(IMAGES[RED], [Choice("一张{}的照片", ("有人", "没有人"))])
    assert list(label.probabilities) == pytest.approx(expected.probabilities, abs=1e-4)
    reply = world.ask(Question(name="words", type=Question.TEXT, prompt="我看见{}。", options=["墙"]))
    assert reply.success and reply.answers[0].value == "我看见墙 (100%)。"
    reply = world.ask(Question(name="fire", type=Question.YES_NO, prompt="有人吗？"))
    assert not reply.success and "description" in reply.message
