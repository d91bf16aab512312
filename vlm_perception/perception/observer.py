"""Which question when, and every question of a moment in one call of the model. Pure: time comes in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from vlm_perception.models.base import ModelError
from vlm_perception.questions import Answer, Choice, ClosedQuestion, Question, Text


class Answering(Protocol):
    """What `serve` needs of a `Model`."""

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[Answer]: ...


class Schedule:
    """Recurring questions, each at its own rate and about each picture at most once."""

    def __init__(self) -> None:
        self._rates: Mapping[str, float] = {}
        self._due: dict[str, float] = {}
        self._stamps: dict[str, int] = {}

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Set the rate [Hz] of each name; 0 is never. What was due stays due."""
        self._rates = dict(rates)

    def wait(self, now: float) -> float:
        """Seconds from `now` [s] until the next is due: 0 when one is, inf when none will be."""
        return min(
            (max(0.0, self._due.get(name, now) - now) for name, rate in self._rates.items() if rate), default=math.inf
        )

    def take(self, name: str, now: float, stamp: int) -> bool:
        """Whether `name` is due at `now` [s] for the picture of `stamp` [ns]; if so, it counts as asked."""
        rate = self._rates.get(name, 0.0)
        if not rate or now < self._due.get(name, now) or stamp == self._stamps.get(name):
            return False
        # Keep the beat when one comes a little late; when it comes very late, do not catch up.
        beat = self._due.get(name, now) + 1 / rate
        self._due[name] = beat if beat > now else now + 1 / rate
        self._stamps[name] = stamp
        return True


@dataclasses.dataclass(frozen=True)
class MirroredChoice(Choice):
    """Which one of `options`, in the picture with left and right swapped?"""

    def plain(self) -> Choice:
        """What a model is asked about the mirrored picture."""
        return Choice(self.name, self.prompt, self.options, self.descriptions)


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """Questions of one asker; exactly one of `answered` and `failed` is called, once."""

    questions: Sequence[Question]
    answered: Callable[[list[Answer]], None]
    failed: Callable[[Exception], None]


def serve(
    model: Answering, image: np.ndarray, requests: Sequence[Request], known: dict[Question, Answer] | None = None
) -> None:
    """Answer all `requests` about one `image`; the same question of several askers is asked once.

    One call of the model for everything that has options, then those answers go out; one more for
    the texts, which take longer. When a joint call fails, each asker is served alone, so that nobody
    suffers from another's question. `known` are answers about this image that are there already.
    """
    known = {} if known is None else known
    waiting = list(requests)
    for with_texts in (False, True):
        questions = [q for r in waiting for q in r.questions if with_texts or not isinstance(q, Text)]
        try:
            _ask(model, image, questions, known)
        except Exception as error:
            if len(waiting) == 1:
                waiting[0].failed(error)
            else:
                for request in waiting:
                    serve(model, image, [request], known)
            return
        complete = [r for r in waiting if all(_nameless(q) in known for q in r.questions)]
        waiting = [r for r in waiting if r not in complete]
        for request in complete:
            request.answered([dataclasses.replace(known[_nameless(q)], name=q.name) for q in request.questions])


def _nameless(question: Question) -> Question:
    """What is asked, whoever asks."""
    return dataclasses.replace(question, name="-")


def _ask(model: Answering, image: np.ndarray, questions: Sequence[Question], known: dict[Question, Answer]) -> None:
    """Add to `known` what is not in it yet, by one call of the model, and one more for the mirrored picture."""
    new: dict[Question, Question] = {}
    names: set[str] = set()
    for question in questions:
        if (key := _nameless(question)) not in known and key not in new:
            name = question.name
            while name in names:  # two askers may use one name for different questions
                name += "+"
            names.add(name)
            new[key] = dataclasses.replace(question, name=name)
    straight = {key: question for key, question in new.items() if not isinstance(question, MirroredChoice)}
    mirrored = {key: question.plain() for key, question in new.items() if isinstance(question, MirroredChoice)}
    if straight:
        known |= _answers(model, image, straight)
    if mirrored:
        known |= _answers(model, np.ascontiguousarray(image[:, ::-1]), mirrored)


def _answers(model: Answering, image: np.ndarray, asked: Mapping[Question, Question]) -> dict[Question, Answer]:
    """Return the model's answers by the keys of `asked`."""
    answers = model.answer(image, list(asked.values()))
    if len(answers) != len(asked):
        raise ModelError(f"the model gave {len(answers)} answers to {len(asked)} questions")
    for question, answer in zip(asked.values(), answers, strict=True):
        if isinstance(question, ClosedQuestion):
            _check(question, answer)
    return dict(zip(asked, answers, strict=True))


def _check(question: ClosedQuestion, answer: Answer) -> None:
    """Raise ModelError unless `answer` is one of the options, with a probability for each: one that is not a number
    would stay in every belief that it is mixed into."""
    if answer.value not in question.options:
        raise ModelError(f"the model answered {answer.value!r:.100} to {question.name!r}, expected one of its options")
    given = answer.probabilities
    if len(given) != len(question.options) or not all(-1e-3 <= p <= 1 + 1e-3 for p in given):  # NaN is neither
        raise ModelError(
            f"the model answered {question.name!r} with the probabilities {list(given)!r:.200}, expected one from 0 "
            f"to 1 for each of its {len(question.options)} options"
        )
