"""All questions of a moment in few calls of the model, and nobody suffers from the question of another."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from vlm_perception.models.base import ModelError, ModelOutOfMemoryError
from vlm_perception.perception import inference
from vlm_perception.perception.inference import Job, OomBackoff, answer
from vlm_perception.questions import Answer, Choice, MirroredChoice, Text, YesNo

IMAGE = np.zeros((4, 4, 3), np.uint8)
LABEL = Choice("what is ahead?", ("clear", "wall"))
SIDE = Choice("where is it?", ("left", "right"))
WORDS = Text("describe the scene")


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
        assert len(set(questions)) == len(questions)
        return [
            Answer("words", 0.5)
            if isinstance(q, Text)
            else Answer(q.options[-1], 0.9, q.options, (0.1,) * (len(q.options) - 1) + (0.9,))
            for q in questions
        ]


def run(model, *questions):
    """What came of each job, in the order of the jobs, and which came when."""
    image = SimpleNamespace(image=IMAGE)
    jobs = [Job(image, asked) for asked in questions]
    results = list(answer(model, jobs))
    assert sorted(map(id, (job for job, _ in results))) == sorted(map(id, jobs)), "each once"
    found = dict(results)
    return [values(found[job]) for job in jobs], [jobs.index(job) for job, _ in results]


def values(result):
    return result if isinstance(result, Exception) else [given.value for given in result]


def test_all_closed_questions_are_one_call_and_texts_come_after_the_others_were_told():
    model = Scripted()
    results, order = run(model, [WORDS], [LABEL], [SIDE])
    assert model.calls == [["what is ahead?", "where is it?"], ["describe the scene"]]
    assert order == [1, 2, 0]
    assert results == [["words"], ["wall"], ["right"]]


def test_the_same_question_is_asked_once():
    model = Scripted()
    results, _ = run(
        model,
        [LABEL],
        [Choice(LABEL.prompt, LABEL.options), Choice(LABEL.prompt, ("clear", "door"))],
        [Text(WORDS.prompt), LABEL],
    )
    assert model.calls == [[LABEL.prompt, LABEL.prompt], [WORDS.prompt]]
    assert results == [["wall"], ["wall", "door"], ["words", "wall"]]


def test_nobody_suffers_from_anothers_question():
    model = Scripted("crash?")
    (bad, label, words), _ = run(model, [YesNo("crash?")], [LABEL], [WORDS])
    assert isinstance(bad, ValueError)
    assert label == ["wall"] and words == ["words"]


def test_a_bad_text_does_not_spoil_the_labels_nor_ask_them_again():
    model = Scripted("crash!")
    (label, bad, words), _ = run(model, [LABEL], [Text("crash!"), SIDE], [WORDS])
    assert label == ["wall"] and words == ["words"] and isinstance(bad, ValueError)
    assert model.calls[0] == [LABEL.prompt, SIDE.prompt]
    assert all(LABEL.prompt not in call and SIDE.prompt not in call for call in model.calls[1:])


@pytest.mark.parametrize("answers", [[], [Answer("castle", 1.0, LABEL.options, (0.5, 0.5))]], ids=["none", "foreign"])
def test_a_model_that_breaks_its_promise_is_an_error_not_a_label(answers):
    model = Scripted()
    model.answer = lambda image, questions: answers
    (label,), _ = run(model, [LABEL])
    assert isinstance(label, ModelError)


def test_a_mirrored_choice_is_asked_of_the_mirrored_image_and_with_all_else_of_the_image_itself():
    class Sees(Scripted):
        """Says on which side it is bright."""

        def answer(self, image, questions):
            self.calls.append([(q.prompt, int(image[0, 0, 0])) for q in questions])
            assert all(type(q) is Choice for q in questions)
            side = "left" if image[0, 0, 0] else "right"
            return [Answer(side, 1.0, q.options, tuple(float(o == side) for o in q.options)) for q in questions]

    image = np.zeros((4, 4, 3), np.uint8)
    image[:, 0] = 255
    model, frame = Sees(), SimpleNamespace(image=image)
    jobs = [Job(frame, [SIDE, MirroredChoice(SIDE.prompt, SIDE.options)]), Job(frame, [SIDE])]
    assert [values(result) for _, result in answer(model, jobs)] == [["left", "right"], ["left"]]
    assert model.calls == [[(SIDE.prompt, 255)], [(SIDE.prompt, 0)]]


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
    portions = OomBackoff(model, noticed.append)
    questions = [Choice(f"question {n}?", ("yes", "no")) for n in range(5)]
    for _ in range(2):
        assert len(portions.answer_batch([IMAGE], questions)[0]) == 5
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
            return [Answer(q.options[0], 0.5, q.options, probabilities) for q in questions]

    (error,), _ = run(Wrong(), [LABEL])
    assert isinstance(error, ModelError) and "'what is ahead?' with the probabilities" in str(error)


def test_images_and_questions_that_memory_does_not_do_for_together_go_in_portions():
    class Small(Scripted):
        """Has memory for `most` pairs of an image and a question."""

        most = 4

        def answer_batch(self, images, questions):
            self.calls.append((len(images), len(questions)))
            if len(images) * len(questions) > self.most:
                raise ModelOutOfMemoryError("too many")
            return [[Answer(f"{image[0, 0, 0]} {q.prompt}", 1.0) for q in questions] for image in images]

        def answer(self, image, questions):
            return self.answer_batch([image], questions)[0]

    model, noticed = Small(), []
    images = [np.full((4, 4, 3), n, np.uint8) for n in range(5)]
    questions = [SIDE, LABEL]
    expected = [[f"{n} {SIDE.prompt}", f"{n} {LABEL.prompt}"] for n in range(5)]
    portions = OomBackoff(model, noticed.append)
    assert [[a.value for a in row] for row in portions.answer_batch(images, questions)] == expected
    assert model.calls == [(5, 2), (2, 2), (2, 2), (1, 2)] and len(noticed) == 1
    model.calls.clear()
    assert [[a.value for a in row] for row in portions.answer_batch(images, questions)] == expected
    assert model.calls == [(2, 2), (2, 2), (1, 2)] and len(noticed) == 1, "what is known to be too much is not tried"
    model.most = 1
    model.calls.clear()
    assert [[a.value for a in row] for row in portions.answer_batch(images, questions)] == expected
    assert model.calls[-2:] == [(1, 1), (1, 1)]


def test_it_is_learned_how_long_calls_take_and_those_for_texts_apart(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(inference.time, "monotonic", lambda: clock.now)

    class Slow(Scripted):
        def answer(self, image, questions):
            limits.append(slow.limit(40.0))
            clock.now += 8.0 if WORDS in questions else 2.0
            return super().answer(image, questions)

    limits: list[float] = []
    slow = OomBackoff(Slow(), pytest.fail)
    for question in (LABEL, WORDS, LABEL, WORDS):
        slow.answer_batch([IMAGE], [question])
    assert limits == [40.0, 40.0, 8.0, 32.0]  # of the present call; a first one may take as long as any
    assert [slow.limit(40.0, texts) for texts in (False, True)] == [8.0, 32.0] and slow.limit(5.0, True) == 5.0
    slow.forget_texts()
    assert slow.limit(40.0, True) == 40.0
