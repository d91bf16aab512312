"""Which question when, and all askers of a moment served by one call of the model."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from vlm_perception.models.base import ModelError, ModelOutOfMemoryError
from vlm_perception.perception.observer import Inquiry, MirroredChoice, Request, Schedule, serve
from vlm_perception.perception.portions import Portions
from vlm_perception.questions import Answer, Choice, Text, YesNo

IMAGE = np.zeros((4, 4, 3), np.uint8)
LABEL = Choice("label", "what is ahead?", ("clear", "wall"))
SIDE = Choice("side", "where is it?", ("left", "right"))
WORDS = Text("description", "describe the scene")


class Scripted:
    """Answers the last option; remembers each call; fails on the prompts in `bad`."""

    name = "scripted"

    def __init__(self, *bad):
        self.calls, self.bad = [], bad

    def answer_batch(self, images, questions):
        return [self.answer(image, questions) for image in images]

    def answer(self, image, questions):
        self.calls.append([q.prompt for q in questions])
        if any(q.prompt in self.bad for q in questions):
            raise ValueError("bad prompt")
        assert len({q.name for q in questions}) == len(questions)
        return [
            Answer(q.name, "words", 0.5)
            if isinstance(q, Text)
            else Answer(q.name, q.options[-1], 0.9, q.options, (0.1,) * (len(q.options) - 1) + (0.9,))
            for q in questions
        ]


class Asker:
    def __init__(self, log, *questions):
        self.log, self.request = log, Request(questions, self.answered, self.failed)
        self.answers = self.error = None

    def answered(self, answers):
        assert self.answers is None and self.error is None
        self.answers = {a.name: a.value for a in answers}
        self.log.append(self)

    def failed(self, error):
        assert self.answers is None and self.error is None
        self.error = error
        self.log.append(self)


def run(model, *questions):
    log = []
    askers = [Asker(log, *qs) for qs in questions]
    serve(model, [Inquiry(IMAGE, [a.request for a in askers])])
    assert sorted(map(id, log)) == sorted(map(id, askers)), "everybody hears, once"
    return askers, log


def test_all_closed_questions_are_one_call_and_texts_come_after_the_others_were_told():
    model = Scripted()
    (description, label, ask), log = run(model, [WORDS], [LABEL], [SIDE])
    assert model.calls == [["what is ahead?", "where is it?"], ["describe the scene"]]
    assert log == [label, ask, description]
    assert label.answers == {"label": "wall"} and ask.answers == {"side": "right"}
    assert description.answers == {"description": "words"}


def test_the_same_question_is_asked_once_and_everybody_keeps_his_own_names():
    model = Scripted()
    (one, two, three), _ = run(
        model,
        [LABEL],
        [Choice("mine", LABEL.prompt, LABEL.options), Choice("label", LABEL.prompt, ("clear", "door"))],
        [Text("t", WORDS.prompt), LABEL],
    )
    assert model.calls == [[LABEL.prompt, LABEL.prompt], [WORDS.prompt]]
    assert one.answers == {"label": "wall"}
    assert two.answers == {"mine": "wall", "label": "door"}
    assert three.answers == {"t": "words", "label": "wall"}


def test_nobody_suffers_from_anothers_question():
    model = Scripted("crash?")
    (bad, label, words), _ = run(model, [YesNo("x", "crash?")], [LABEL], [WORDS])
    assert isinstance(bad.error, ValueError)
    assert label.answers == {"label": "wall"} and words.answers == {"description": "words"}


def test_a_bad_text_does_not_spoil_the_labels_nor_ask_them_again():
    model = Scripted("crash!")
    (label, bad, words), _ = run(model, [LABEL], [Text("x", "crash!"), SIDE], [WORDS])
    assert label.answers and words.answers and isinstance(bad.error, ValueError)
    assert model.calls[0] == [LABEL.prompt, SIDE.prompt]
    assert all(LABEL.prompt not in call and SIDE.prompt not in call for call in model.calls[1:])


@pytest.mark.parametrize(
    "answers", [[], [Answer("label", "castle", 1.0, LABEL.options, (0.5, 0.5))]], ids=["none", "foreign"]
)
def test_a_model_that_breaks_its_promise_is_an_error_not_a_label(answers):
    model = Scripted()
    model.answer = lambda image, questions: answers
    (label,), _ = run(model, [LABEL])
    assert isinstance(label.error, ModelError)


def times(schedule, name, stamps):
    return [t for t in stamps if schedule.take(name, t, round(t * 1e9))]


def test_each_question_comes_at_its_own_rate():
    schedule = Schedule()
    schedule.set_rates({"label": 10.0, "description": 0.5, "never": 0.0})
    frames = [n / 30 for n in range(30 * 20)]
    assert abs(len(times(schedule, "label", frames)) - 200) <= 1
    assert len(times(schedule, "description", frames)) == 10
    assert times(schedule, "never", frames) == times(schedule, "unknown", frames) == []


def test_a_rate_like_the_cameras_asks_about_every_picture_though_they_come_unevenly():
    schedule = Schedule()
    schedule.set_rates({"label": 30.0})
    frames = [n / 30 + random.Random(n).uniform(-0.004, 0.004) for n in range(1, 300)]
    assert len(times(schedule, "label", frames)) == len(frames)
    twice_as_often = [n / 60 for n in range(700, 1300)]
    assert abs(len(times(schedule, "label", twice_as_often)) - 300) <= 1, "and not more often"


def test_a_rate_above_the_cameras_asks_about_every_picture_once():
    schedule = Schedule()
    schedule.set_rates({"label": 100.0})
    assert schedule.take("label", 1.0, 7)
    assert not schedule.take("label", 2.0, 7), "the same picture again"
    assert schedule.take("label", 2.1, 8)


def test_after_a_long_answer_it_does_not_catch_up():
    schedule = Schedule()
    schedule.set_rates({"label": 10.0})
    assert times(schedule, "label", [0.0, 5.0, 5.01, 5.05, 5.11]) == [0.0, 5.0, 5.11]


def test_waiting_is_until_the_next_is_due():
    schedule = Schedule()
    assert schedule.wait(3.0) == math.inf
    schedule.set_rates({"label": 2.0, "never": 0.0})
    assert schedule.wait(3.0) == 0
    assert schedule.take("label", 3.0, 1)
    assert schedule.wait(3.1) == pytest.approx(0.39)
    schedule.set_rates({"never": 0.0})
    assert schedule.wait(3.1) == math.inf


def test_a_mirrored_choice_is_asked_of_the_mirrored_picture_and_with_all_else_of_the_picture_itself():
    class Sees(Scripted):
        """Says on which side it is bright."""

        def answer(self, image, questions):
            self.calls.append([q.name for q in questions])
            assert all(type(q) is Choice for q in questions)
            side = "left" if image[0, 0, 0] else "right"
            return [Answer(q.name, side, 1.0, q.options, tuple(float(o == side) for o in q.options)) for q in questions]

    image = np.zeros((4, 4, 3), np.uint8)
    image[:, 0] = 255
    log = []
    asker = Asker(log, SIDE, MirroredChoice("mirrored", SIDE.prompt, SIDE.options))
    model = Sees()
    serve(model, [Inquiry(image, [asker.request, Asker(log, SIDE).request])])
    assert asker.answers == {"side": "left", "mirrored": "right"}
    assert model.calls == [["side"], ["mirrored"]]


class Forgetful(Scripted):
    """Has memory for `most` questions at once."""

    most = 2

    def answer(self, image, questions):
        if len(questions) > self.most:
            self.calls.append(len(questions))
            raise ModelOutOfMemoryError("too many")
        return super().answer(image, questions)


def test_what_memory_does_not_do_for_is_asked_in_portions_until_it_is_tried_again(monkeypatch):
    model, noticed = Forgetful(), []
    portions = Portions(model, noticed.append)
    questions = [Choice(f"q{n}", f"question {n}?", ("yes", "no")) for n in range(5)]
    for _ in range(2):
        assert [answer.name for answer in portions.answer_batch([IMAGE], questions)[0]] == [
            "q0",
            "q1",
            "q2",
            "q3",
            "q4",
        ]
    assert [call if isinstance(call, int) else len(call) for call in model.calls] == [5, 2, 2, 1, 2, 2, 1]
    assert len(noticed) == 1
    monkeypatch.setattr(portions, "_short", -math.inf)
    model.most = 5
    assert len(portions.answer_batch([IMAGE], questions)[0]) == 5 and len(model.calls[-1]) == 5, "all at once again"
    model.most = 0
    with pytest.raises(ModelOutOfMemoryError):
        portions.answer_batch([IMAGE], questions)


@pytest.mark.parametrize("probabilities", [(math.nan, 1.0), (0.5,), (1.5, -0.5), ()])
def test_an_answer_without_a_probability_for_each_option_is_refused(probabilities):
    class Wrong(Scripted):
        def answer(self, image, questions):
            return [Answer(q.name, q.options[0], 0.5, q.options, probabilities) for q in questions]

    (asker,) = run(Wrong(), [LABEL])[0]
    assert isinstance(asker.error, ModelError) and "'label' with the probabilities" in str(asker.error)


def test_pictures_and_questions_that_memory_does_not_do_for_together_go_in_portions():
    class Small(Scripted):
        """Has memory for `most` pairs of a picture and a question."""

        most = 4

        def answer_batch(self, images, questions):
            self.calls.append((len(images), len(questions)))
            if len(images) * len(questions) > self.most:
                raise ModelOutOfMemoryError("too many")
            return [[Answer(f"{image[0, 0, 0]} {q.name}", "", 1.0) for q in questions] for image in images]

        def answer(self, image, questions):
            return self.answer_batch([image], questions)[0]

    model, noticed = Small(), []
    images = [np.full((4, 4, 3), n, np.uint8) for n in range(5)]
    questions = [SIDE, LABEL]
    expected = [[f"{n} side", f"{n} label"] for n in range(5)]
    portions = Portions(model, noticed.append)
    assert [[a.name for a in row] for row in portions.answer_batch(images, questions)] == expected
    assert model.calls == [(5, 2), (2, 2), (2, 2), (1, 2)] and len(noticed) == 1
    model.calls.clear()
    assert [[a.name for a in row] for row in portions.answer_batch(images, questions)] == expected
    assert model.calls == [(2, 2), (2, 2), (1, 2)] and len(noticed) == 1, "what is known to be too much is not tried"
    model.most = 1
    model.calls.clear()
    assert [[a.name for a in row] for row in portions.answer_batch(images, questions)] == expected
    assert model.calls[-2:] == [(1, 1), (1, 1)]
