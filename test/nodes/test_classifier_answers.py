"""Answers of the classifier as messages: what they cost, and strange ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("vlm_perception.srv", reason="the interfaces are not built", exc_type=ImportError)

from classifier_world import SIDE, WORDS, Scripted, World
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message

from vlm_perception.models.base import ModelError
from vlm_perception.nodes import conversions
from vlm_perception.questions import Answer, Text, Usage

ANY_TEXT = st.text(st.characters(), max_size=20)
ANY_USAGE = st.builds(Usage, st.floats(), st.floats(), st.integers(), st.integers())


def test_what_an_answer_cost_is_told_to_the_asker_and_in_the_diagnostics(ros):
    world = World(ros)
    world.until_label("clear")
    side, words = world.ask(SIDE, WORDS).answers
    assert (side.seconds, side.time_to_first_token, side.tokens, side.tokens_per_second) == (0.25, 0.25, 0, 0.0)
    assert (words.tokens, words.tokens_per_second, words.peak_memory) == (31, 20.0, 7 << 20)
    assert conversions.answer_from_message(words).usage == Scripted.words
    values = {v.key: v.value for v in world.until_health("looking").values}
    assert values["decision time [s]"] == "0.25" and values["decision peak memory [MiB]"] == "5"
    assert values["description tokens per second"] == "20" and values["description tokens"] == "31"
    assert values["description time to first token [s]"] == "0.5" and values["description peak memory [MiB]"] == "7"


def test_a_model_that_does_not_tell_what_it_cost_is_fine(ros):
    world = World(ros)
    world.model.decision = world.model.words = None
    world.until_label("clear")
    reply = world.ask(SIDE, WORDS)
    assert reply.success and reply.answers[0].seconds == 0 == reply.answers[1].peak_memory
    assert conversions.answer_from_message(reply.answers[1]).usage is None
    world.until_health("looking")


class Strange(Scripted):
    """Answers with what no message can hold."""

    decision = Usage(1e300, -1.0, -5, 2**80)
    words = Usage(1.0, 1.0, 2**70, -1)

    def answer(self, image, questions):
        said = "A \ud83d\x1b[31mball\x00"
        return [replace(a, value=said) if not a.options else a for a in super().answer(image, questions)]


def test_answers_that_no_message_can_hold_do_not_take_the_node_down(ros):
    world = World(ros, load=lambda *_: Strange())
    world.until_label("clear")
    reply = world.ask(SIDE, WORDS)
    assert reply.success and [a.tokens for a in reply.answers] == [0, 2**32 - 1]
    assert [a.peak_memory for a in reply.answers] == [2**64 - 1, 0]
    assert reply.answers[1].value == "A \ufffdball"
    ros.until(lambda: [m for m in world.descriptions if m.data == "A \ufffdball"], "description")


def test_an_error_with_half_a_character_can_be_logged_and_told(ros):
    world = World(ros)
    world.until_label("clear")
    world.model.error = ModelError("the server said \ud83d\x1b[2J")
    reply = world.ask(SIDE)
    assert not reply.success and reply.message == "the server said \ufffd"
    world.until_health("the server said \ufffd")
    world.model.error = None
    assert world.ask(SIDE).success


def test_words_that_fail_cost_neither_the_model_nor_the_answers_beside_them(ros):
    class Speechless(Scripted):
        def answer(self, image, questions):
            if any(isinstance(question, Text) for question in questions):
                raise ModelError("no words today")
            return super().answer(image, questions)

    world = World(ros, load=lambda *_: Speechless())
    world.until_label("clear")
    reply = world.ask(SIDE, WORDS)
    assert reply.success and [(a.value, a.confidence > 0) for a in reply.answers] == [("left", True), ("", False)]
    reply = world.ask(WORDS)
    assert not reply.success and reply.message == "no words today"
    world.until_health("no words today")


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        Answer,
        ANY_TEXT,
        st.floats(),
        st.just(("a", "b")),
        st.tuples(st.floats(), st.floats()),
        st.none() | ANY_USAGE,
    )
)
def test_any_answer_can_be_sent(answer):
    message = conversions.answer_to_message("name", answer)
    again = conversions.answer_from_message(deserialize_message(serialize_message(message), type(message)))
    assert again.value == message.value and again.options == answer.options
