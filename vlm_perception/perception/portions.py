"""Fewer questions at once while memory is short."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from vlm_perception.models.base import Model, ModelOutOfMemoryError
from vlm_perception.questions import Answer, Question

FULL_AGAIN = 30.0
"""So long [s] after memory was short last, all questions are asked at once again."""
OUT_OF_MEMORY = (ModelOutOfMemoryError, MemoryError)


class Portions:
    """Asks `model`, in halves of what it had no memory for; `noticed` hears of each such failure.

    When there is no memory even for a single question, the error is raised.
    """

    def __init__(self, model: Model, noticed: Callable[[Exception], None]) -> None:
        self._model = model
        self._noticed = noticed
        self._most: float = math.inf
        self._short = -math.inf

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[Answer]:
        """Answer all `questions`, as `Model.answer` does."""
        if time.monotonic() - self._short > FULL_AGAIN:
            self._most = math.inf
        answers: list[Answer] = []
        while len(answers) < len(questions):
            start, rest = len(answers), len(questions) - len(answers)
            portion = questions[start : start + int(min(rest, self._most))]
            try:
                given = self._model.answer(image, portion)
            except OUT_OF_MEMORY as error:
                self._short = time.monotonic()
                if len(portion) == 1:
                    raise
                self._most = len(portion) // 2
                self._noticed(error)
                continue
            if len(given) != len(portion):
                return given  # whoever asked says what is wrong
            answers += given
        return answers
