"""Answers of a scene that has not changed are used again, and never those of another scene, question or time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vlm_perception.perception.reuse import Reuse, ReuseSettings
from vlm_perception.questions import Answer, Choice, Text, Usage

LABEL = Choice("label", "what is ahead?", ("clear", "wall"))
WORDS = Text("description", "describe the scene")
SETTINGS = ReuseSettings(threshold=8.0, scenes=3, lifetime=60.0, refresh=10.0)


def scene(seed, noise=0.0):
    """A picture of the size of a camera's, of 16 x 12 random colours; `noise` is that of the camera."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(20, 236, (12, 16, 3)).repeat(20, axis=0).repeat(20, axis=1)
    image = np.clip(cells + np.random.default_rng().normal(0, noise, cells.shape), 0, 255).astype(np.uint8)
    image.flags.writeable = False
    return image


def answer(value="clear", question=LABEL):
    usage = Usage(1.0, 1.0, 0, 0)
    if isinstance(question, Text):
        return Answer(question.name, value, 0.9, usage=usage)
    return Answer(question.name, value, 0.9, question.options, (0.9, 0.1), usage)


@pytest.fixture
def reuse():
    return Reuse(SETTINGS)


def test_the_same_scene_gets_its_answer_again_with_its_age_and_at_no_cost(reuse):
    assert reuse.find(LABEL, scene(1, noise=8), 0.0) is None
    reuse.keep(LABEL, scene(1, noise=8), answer(), 0.0)
    again = reuse.find(LABEL, scene(1, noise=8), 1.5)
    assert again == answer() and again.age == 1.5 and again.usage is None
    assert reuse.figures() == {"reuse, hits": 1, "reuse, misses": 1, "reuse, forced refreshes": 0}


def test_off_is_the_default():
    reuse = Reuse(ReuseSettings())
    reuse.keep(LABEL, scene(1), answer(), 0.0)
    assert reuse.find(LABEL, scene(1), 0.1) is None and reuse.figures() == {}


@pytest.mark.parametrize("size", [20, 40, 80])
def test_something_new_that_is_small_is_another_scene(reuse, size):
    before = np.full((240, 320, 3), 128, np.uint8)
    reuse.keep(LABEL, before, answer(), 0.0)
    after = before.copy()
    after[100 : 100 + size, 150 : 150 + size, 0] = 200
    assert reuse.find(LABEL, after, 0.1) is None


def test_a_change_of_colour_alone_is_another_scene(reuse):
    """Red and blue of the same brightness: a hash of grey values would call them the same."""
    red, blue = np.full((240, 320, 3), 60, np.uint8), np.full((240, 320, 3), 60, np.uint8)
    red[60:120, 80:160] = 200, 40, 40
    blue[60:120, 80:160] = 40, 82, 200
    reuse.keep(LABEL, red, answer(), 0.0)
    assert reuse.find(LABEL, blue, 0.1) is None


def test_slow_drift_is_judged_against_the_picture_that_the_model_saw(reuse):
    first = np.full((48, 64, 3), 100, np.uint8)
    reuse.keep(LABEL, first, answer(), 0.0)
    found = [reuse.find(LABEL, first + np.uint8(step), 0.1 * step) is not None for step in range(1, 20)]
    assert found == [step <= SETTINGS.threshold for step in range(1, 20)]


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "what is there?"},
        {"options": ("clear", "door")},
        {"options": ("clear", "wall", "door")},
        {"options": ("wall", "clear")},
        {"descriptions": ("nothing near", "a wall")},
    ],
)
def test_never_across_a_change_of_what_is_asked(reuse, changed):
    reuse.keep(LABEL, scene(1), answer(), 0.0)
    assert reuse.find(dataclasses.replace(LABEL, **changed), scene(1), 0.1) is None
    assert reuse.find(LABEL, scene(1), 0.1) is not None


def test_the_length_and_the_phrases_of_free_words_belong_to_the_question(reuse):
    reuse.keep(WORDS, scene(1), answer("a room", WORDS), 0.0)
    assert reuse.find(WORDS, scene(1), 0.1).value == "a room"
    assert reuse.find(dataclasses.replace(WORDS, max_new_tokens=5), scene(1), 0.1) is None
    assert reuse.find(dataclasses.replace(WORDS, phrases=("a room", "a hall")), scene(1), 0.1) is None


def test_another_size_of_the_picture_is_another_scene(reuse):
    reuse.keep(LABEL, np.zeros((48, 64, 3), np.uint8), answer(), 0.0)
    assert reuse.find(LABEL, np.zeros((96, 128, 3), np.uint8), 0.1) is None


def test_a_scene_is_recognised_on_the_way_back_and_the_nearest_one_counts(reuse):
    for number, value in enumerate(("clear", "wall")):
        reuse.keep(LABEL, scene(number), answer(value), float(number))
    assert [reuse.find(LABEL, scene(number, noise=4), 5.0).value for number in (1, 0)] == ["wall", "clear"]
    close = np.full((48, 64, 3), 100, np.uint8)
    reuse.keep(LABEL, close, answer("clear"), 5.0)
    reuse._memories.append(dataclasses.replace(reuse._memories[-1], thumbnail=reuse._memories[-1].thumbnail + 6))
    assert reuse.find(LABEL, close + np.uint8(1), 5.1).age == pytest.approx(0.1)


def test_the_scene_that_was_not_met_for_the_longest_time_is_forgotten_first(reuse):
    for number in range(3):
        reuse.keep(LABEL, scene(number), answer(), 0.0)
    assert reuse.find(LABEL, scene(0), 1.0)
    reuse.keep(LABEL, scene(3), answer(), 1.0)
    assert [reuse.find(LABEL, scene(n), 1.0) is not None for n in range(4)] == [True, False, True, True]


def test_no_answer_outlives_its_time(reuse):
    reuse.keep(LABEL, scene(1), answer(), 0.0)
    for now in range(5, 65, 5):  # the model is asked about other scenes meanwhile
        reuse.keep(LABEL, scene(2), answer(), float(now))
        assert (reuse.find(LABEL, scene(1), now + 0.5) is not None) == (now + 0.5 < SETTINGS.lifetime)


def test_after_some_time_without_the_model_it_is_asked_whatever_the_picture(reuse):
    reuse.keep(LABEL, scene(1), answer(), 0.0)
    assert reuse.find(LABEL, scene(1), 9.9)
    assert reuse.find(LABEL, scene(1), 10.0) is None and reuse.counts["refresh"] == 1
    reuse.keep(LABEL, scene(1), answer("wall"), 10.0)
    assert reuse.find(LABEL, scene(1), 10.1).value == "wall"
    assert len(reuse._memories) == 1, "the new answer replaces the old one"


def test_clear_forgets(reuse):
    reuse.keep(LABEL, scene(1), answer(), 0.0)
    reuse.clear()
    assert reuse.find(LABEL, scene(1), 0.1) is None
