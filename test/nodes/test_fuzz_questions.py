"""Whatever is asked by message: an answer, or an error with the reason; memory stays bounded."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import tiny_models
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vlm_perception.models.base import ModelError
from vlm_perception.models.loader import load_model
from vlm_perception.questions import ClosedQuestion, check_request

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
TOKENS = [
    "<image>", "<end_of_utterance>", "<|im_start|>", "Assistant:", "</think>", "\u200b", "\u202e", "\u0301", "\ud800",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(TOKENS) | st.text(st.characters(exclude_categories=()), max_size=12), max_size=4).map(
    "".join
)
LONG = st.integers(1, 220).map(lambda count: "门" * count)


@pytest.fixture(scope="module", params=["smolvlm", "paligemma"])
def model(request, tmp_path_factory):
    return load_model(str(tiny_models.save(request.param, tmp_path_factory.mktemp("model"))), "cpu", "float32")


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.integers(0, 6),
    name=TEXTS,
    prompt=TEXTS | LONG,
    options=st.lists(TEXTS | LONG, max_size=5),
    descriptions=st.lists(TEXTS, max_size=3),
)
@example(kind=0, name="q", prompt="where?", options=[chr(0x4E00 + n) * 200 for n in range(200)], descriptions=[])
@example(kind=0, name="q", prompt="where?", options=[f"{n} " + "a wall " * 4 for n in range(200)], descriptions=[])
@example(kind=3, name="q", prompt="<image>" * 200, options=[], descriptions=[])
def test_any_question_gets_an_answer_or_a_reason(model, kind, name, prompt, options, descriptions):
    pytest.importorskip("rclpy")
    from vlm_perception import msg
    from vlm_perception.nodes.conversions import answer_from_message, answer_to_message, question_from_message

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = msg.Question(type=kind, name=name, prompt=prompt, options=options, descriptions=descriptions)
    try:
        question = question_from_message(message, 3)
        check_request([question])
        if hasattr(question, "plain"):
            question = question.plain()
        (answer,) = model.answer(IMAGE, [question])
    except (ValueError, ModelError) as error:
        assert str(error).isprintable() and len(str(error)) < 1000
    else:
        assert answer_from_message(answer_to_message("q", answer)).value == answer.value
        if isinstance(question, ClosedQuestion):
            assert answer.value in question.options and 0.0 <= answer.off_mass <= 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10  # [KiB]
