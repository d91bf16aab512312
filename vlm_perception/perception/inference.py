"""Jobs become few calls of the model. A bad image or question of one job does not cost another job its answers.

`answer` is the only way to the model. It yields results as they come, so that labels do not wait for texts.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

from vlm_perception.models.base import Model, ModelError, ModelOutOfMemoryError
from vlm_perception.patience import Patience
from vlm_perception.perception.frame import Frame
from vlm_perception.perception.outputs import Reply
from vlm_perception.questions import Answer, ClosedQuestion, MirroredChoice, Question, Text

OUT_OF_MEMORY = (ModelOutOfMemoryError, MemoryError)
FULL_AGAIN = 30.0
"""Time [s] after the last shortage of memory until everything is asked at once again."""
PAUSE = (1.0, 30.0)
"""First and longest pause [s] after memory was short even for one question about one image."""
SHORTEST_WAIT = 5.0
"""However quick the model is, a call may take so long [s] before it counts as hanging."""


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """`questions` about one `frame`: an ask, which has a `reply`, or a recurring question, which has none."""

    frame: Frame
    questions: Sequence[Question]
    reply: Future[Reply] | None = None


class TextFailed(NamedTuple):
    """The `answers` to closed questions, and empty ones to the texts, at which the model failed with `error`."""

    answers: list[Answer]
    error: Exception


Known = dict[int, dict[Question, Answer]]
"""Answers by the identity of the image, and by question."""


def answer(
    model: Model | OomBackoff, jobs: Sequence[Job], known: Known | None = None
) -> Iterator[tuple[Job, list[Answer] | TextFailed | Exception]]:
    """Yield each of `jobs` once, with its answers or its error.

    One call of the model has all closed questions, for all images about which the same is asked. Another call has the
    texts, which take longer. Equal questions about an image are asked once. When a joint call fails, each image is
    asked about alone, and then each job. `known` are answers that need not be asked again.
    """
    known = {} if known is None else known
    waiting = list(jobs)
    for with_texts in (False, True):
        try:
            _ask(model, waiting, known, with_texts)
        except Exception as error:
            groups = _by_image(waiting)
            if len(groups) == 1:
                groups = [[job] for job in waiting]
            if len(groups) == 1:
                yield waiting[0], _rest(waiting[0], known, error)
            else:
                for group in groups:
                    yield from answer(model, group, known)
            return
        still = []
        for job in waiting:
            answers = _answers_to(job, known)
            if answers is None:
                still.append(job)
            else:
                yield job, answers
        waiting = still


def _rest(job: Job, known: Known, error: Exception) -> TextFailed | Exception:
    """Return the result of a `job` whose last questions failed with `error`: a text does not cost the other answers."""
    found = known.get(id(job.frame.image), {})
    lacking = [question for question in job.questions if question not in found]
    # An error that is not the model's is a mistake in the question, and is reported as such.
    if (
        not isinstance(error, ModelError)
        or len(lacking) == len(job.questions)
        or not all(isinstance(question, Text) for question in lacking)
    ):
        return error
    return TextFailed([found.get(question, Answer("", 0.0)) for question in job.questions], error)


def _by_image(jobs: Sequence[Job]) -> list[list[Job]]:
    groups: dict[int, list[Job]] = {}
    for job in jobs:
        groups.setdefault(id(job.frame.image), []).append(job)
    return list(groups.values())


def _answers_to(job: Job, known: Known) -> list[Answer] | None:
    """Return the answers to the job's questions, in their order; None while one is missing."""
    found = known.get(id(job.frame.image), {})
    answers = [found[question] for question in job.questions if question in found]
    return answers if len(answers) == len(job.questions) else None


def _ask(model: Model | OomBackoff, jobs: Sequence[Job], known: Known, with_texts: bool) -> None:
    """Add the missing answers to `known`: one call for all images about which the same is asked."""
    calls: dict[tuple[bool, tuple[Question, ...]], list[np.ndarray]] = {}
    for group in _by_image(jobs):
        image = group[0].frame.image
        found = known.setdefault(id(image), {})
        new = dict.fromkeys(
            question
            for job in group
            for question in job.questions
            if question not in found and (with_texts or not isinstance(question, Text))
        )
        for mirrored in (False, True):
            if part := tuple(question for question in new if isinstance(question, MirroredChoice) == mirrored):
                calls.setdefault((mirrored, part), []).append(image)
    for (mirrored, questions), images in calls.items():
        shown = [np.ascontiguousarray(image[:, ::-1]) for image in images] if mirrored else images
        asked = [question.plain() if isinstance(question, MirroredChoice) else question for question in questions]
        for image, answers in zip(images, _checked(model.answer_batch(shown, asked), len(shown), asked), strict=True):
            known[id(image)].update(zip(questions, answers, strict=True))


def _checked(found: list[list[Answer]], images: int, questions: Sequence[Question]) -> list[list[Answer]]:
    """Return what the model `found`. Raises ModelError unless it has an answer to each question about each image."""
    if len(found) != images:
        raise ModelError(f"the model gave answers about {len(found)} images, expected {images}")
    for answers in found:
        if len(answers) != len(questions):
            raise ModelError(f"the model gave {len(answers)} answers to {len(questions)} questions")
        for question, given in zip(questions, answers, strict=True):
            if isinstance(question, ClosedQuestion):
                _check(question, given)
    return found


def _check(question: ClosedQuestion, given: Answer) -> None:
    """Raise ModelError unless the answer is one of the options, with a probability for each.

    NaN would stay in every belief that it is mixed into.
    """
    if given.value not in question.options:
        raise ModelError(f"the model answered {given.value!r:.100} to {question}, expected one of its options")
    are_valid = all(-1e-3 <= p <= 1 + 1e-3 for p in given.probabilities)  # NaN is not
    if len(given.probabilities) != len(question.options) or not are_valid:
        raise ModelError(
            f"the model answered {question} with the probabilities {list(given.probabilities)!r:.200}, expected one "
            f"from 0 to 1 for each of its {len(question.options)} options"
        )


class OomBackoff:
    """A `model` that is asked less at once while memory is short; `noticed` is called with each such error.

    Each failure halves the number of pairs of an image and a question in one call. When memory is short even for one
    pair, the error is raised, and `pause` says for how long nothing should be asked. `busy_since` [s, monotonic] is the
    time at which the present call began, None between calls. It learns how long calls take, those for texts apart.
    """

    def __init__(self, model: Model, noticed: Callable[[Exception], None]) -> None:
        self.busy_since: float | None = None
        self._patience = {texts: Patience(SHORTEST_WAIT) for texts in (False, True)}
        self._writes = False
        self._model = model
        self._noticed = noticed
        self._most: float = math.inf
        self._short = -math.inf
        self._pause = 0.0
        self._retry_at = -math.inf

    @property
    def pause(self) -> float:
        """Time [s] for which nothing should be asked; 0 when the model may be asked now."""
        return max(0.0, self._retry_at - time.monotonic())

    def failed(self) -> None:
        """Begin a pause, twice as long as the last one; during a pause, do nothing."""
        if not self.pause:
            self._pause = min(max(2 * self._pause, PAUSE[0]), PAUSE[1])
            self._retry_at = time.monotonic() + self._pause

    def recovered(self) -> None:
        """Make the next pause the shortest one."""
        self._pause = 0.0

    def limit(self, most: float, texts: bool | None = None) -> float:
        """Return after how long [s], at `most`, a call hangs: one for texts or not, or the present one."""
        return self._patience[self._writes if texts is None else texts].limit(most)

    def forget_texts(self) -> None:
        """Forget how long texts take, since those of a warm-up are short."""
        self._patience[True] = Patience(SHORTEST_WAIT)

    def answer_batch(self, images: Sequence[np.ndarray], questions: Sequence[Question]) -> list[list[Answer]]:
        """Answer all `questions` about every image, as `Model.answer_batch` does."""
        if time.monotonic() - self._short > FULL_AGAIN:
            self._most = math.inf
        pairs = len(images) * len(questions)
        if pairs <= self._most:
            self._writes = any(isinstance(question, Text) for question in questions)
            self.busy_since = began = time.monotonic()
            try:
                if len(images) == 1:
                    return [self._model.answer(images[0], questions)]
                return self._model.answer_batch(images, questions)
            except OUT_OF_MEMORY as error:
                self._short = time.monotonic()
                if pairs == 1:
                    raise
                self._most = pairs // 2
                self._noticed(error)
            finally:
                self.busy_since = None
                self._patience[self._writes].took(time.monotonic() - began)
        # Outside the handler: there, the exception would keep alive what has to be freed.
        if len(images) > 1:
            step = max(1, int(self._most // len(questions)))
            portions = [images[start : start + step] for start in range(0, len(images), step)]
            return [answers for portion in portions for answers in self.answer_batch(portion, questions)]
        step = int(self._most)
        parts = [questions[start : start + step] for start in range(0, len(questions), step)]
        return [[given for part in parts for given in self.answer_batch(images, part)[0]]]
