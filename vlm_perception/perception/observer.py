"""Which question when, and every question of a moment in one call of the model. Pure: time comes in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from vlm_perception.models.base import ModelError
from vlm_perception.questions import Answer, Choice, ClosedQuestion, Question, Text

EARLY = 0.01
"""So long [s] before its time a question may be asked: pictures that come as often do not come evenly."""


class Answering(Protocol):
    """What `serve` needs of a `Model`."""

    def answer_batch(self, images: Sequence[np.ndarray], questions: Sequence[Question]) -> list[list[Answer]]: ...


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
            (max(0.0, self._begins(name, now) - now) for name, rate in self._rates.items() if rate), default=math.inf
        )

    def is_due(self, now: float, stamp: int) -> bool:
        """Whether any name is due at `now` [s] for the picture of `stamp` [ns]."""
        return any(self._is_due(name, now, stamp) for name in self._rates)

    def _is_due(self, name: str, now: float, stamp: int) -> bool:
        return bool(self._rates.get(name)) and now >= self._begins(name, now) and stamp != self._stamps.get(name)

    def _begins(self, name: str, now: float) -> float:
        return self._due[name] - EARLY if name in self._due else now

    def take(self, name: str, now: float, stamp: int) -> bool:
        """Whether `name` is due at `now` [s] for the picture of `stamp` [ns]; if so, it counts as asked."""
        if not self._is_due(name, now, stamp):
            return False
        rate = self._rates[name]
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
    """Questions of one asker; exactly one of `answered` and `failed` is called, once.

    A text at which the model failed does not cost the answers to the closed questions: it is then answered by no
    words, with confidence 0, and `lacking` hears before of the error.
    """

    questions: Sequence[Question]
    answered: Callable[[list[Answer]], None]
    failed: Callable[[Exception], None]
    lacking: Callable[[Exception], None] = lambda error: None


@dataclasses.dataclass(frozen=True, eq=False)
class Inquiry:
    """All `requests` about one `image`.

    `known`: answers about this image that are there already, and then those of the model, by `nameless` question.
    """

    image: np.ndarray
    requests: Sequence[Request]
    known: dict[Question, Answer] = dataclasses.field(default_factory=dict)


def serve(model: Answering, inquiries: Sequence[Inquiry]) -> None:
    """Answer all `inquiries`; the same question of several askers about a picture is asked once.

    One call of the model for everything that has options, for all pictures of which the same is asked, then those
    answers go out; one more for the texts, which take longer. When a joint call fails, each picture is served alone,
    and then each asker, so that nobody suffers from another's picture or question.
    """
    waiting = list(inquiries)
    for with_texts in (False, True):
        try:
            _ask(model, waiting, with_texts)
        except Exception as error:
            alone = waiting if len(waiting) > 1 else [_of(waiting[0], [request]) for request in waiting[0].requests]
            if len(alone) == 1:
                _fail(alone[0], error)
            else:
                for one in alone:
                    serve(model, [one])
            return
        waiting = [rest for inquiry in waiting if (rest := _tell(inquiry)).requests]


def _fail(inquiry: Inquiry, error: Exception) -> None:
    """Tell its only asker of the `error`, with the answers that are there."""
    (request,) = inquiry.requests
    lacking = {key for question in request.questions if (key := nameless(question)) not in inquiry.known}
    whole = len(lacking) == len(request.questions) or not all(isinstance(key, Text) for key in lacking)
    if whole or not isinstance(error, ModelError):  # the asker's mistakes are told as such
        request.failed(error)
        return
    inquiry.known.update({key: Answer("-", "", 0.0) for key in lacking})
    request.lacking(error)
    _tell(inquiry)


def nameless(question: Question) -> Question:
    """What is asked, whoever asks."""
    return dataclasses.replace(question, name="-")


def _of(inquiry: Inquiry, requests: Sequence[Request]) -> Inquiry:
    return dataclasses.replace(inquiry, requests=requests)


def _tell(inquiry: Inquiry) -> Inquiry:
    """Tell those of whom everything is known; return the rest."""
    rest = []
    for request in inquiry.requests:
        found = [inquiry.known.get(nameless(question)) for question in request.questions]
        if None in found:
            rest.append(request)
        else:
            pairs = zip(found, request.questions, strict=True)
            request.answered([dataclasses.replace(answer, name=question.name) for answer, question in pairs if answer])
    return _of(inquiry, rest)


def _ask(model: Answering, inquiries: Sequence[Inquiry], with_texts: bool) -> None:
    """Add to each `known` what is not in it yet: by one call of the model for all pictures of which the same is to be
    known, and one more for those that have to be mirrored."""
    calls: dict[tuple[bool, tuple[Question, ...]], list[tuple[Inquiry, list[Question]]]] = {}
    for inquiry in inquiries:
        new = _unknown(inquiry, with_texts)
        for mirrored in (False, True):
            part = {key: q for key, q in new.items() if isinstance(q, MirroredChoice) == mirrored}
            if part:
                calls.setdefault((mirrored, tuple(part)), []).append((inquiry, list(part.values())))
    for (mirrored, keys), asked in calls.items():
        images = [inquiry.image for inquiry, _ in asked]
        if mirrored:
            images = [np.ascontiguousarray(image[:, ::-1]) for image in images]
        questions = [question.plain() if isinstance(question, MirroredChoice) else question for question in asked[0][1]]
        for (inquiry, _), answers in zip(asked, _answers(model, images, questions), strict=True):
            inquiry.known.update(zip(keys, answers, strict=True))


def _unknown(inquiry: Inquiry, with_texts: bool) -> dict[Question, Question]:
    """What the model has to be asked, each under a name of its own, by the `nameless` question."""
    new: dict[Question, Question] = {}
    names: set[str] = set()
    for question in (q for request in inquiry.requests for q in request.questions):
        key = nameless(question)
        if key in inquiry.known or key in new or (isinstance(question, Text) and not with_texts):
            continue
        name = question.name
        while name in names:  # two askers may use one name for different questions
            name += "+"
        names.add(name)
        new[key] = dataclasses.replace(question, name=name)
    return new


def _answers(model: Answering, images: Sequence[np.ndarray], questions: Sequence[Question]) -> list[list[Answer]]:
    """Return the model's answers; raises ModelError when it gave others than it was asked for."""
    found = model.answer_batch(images, questions)
    if len(found) != len(images):
        raise ModelError(f"the model gave answers about {len(found)} pictures, expected {len(images)}")
    for answers in found:
        if len(answers) != len(questions):
            raise ModelError(f"the model gave {len(answers)} answers to {len(questions)} questions")
        for question, answer in zip(questions, answers, strict=True):
            if isinstance(question, ClosedQuestion):
                _check(question, answer)
    return found


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
