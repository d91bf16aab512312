"""Fewer pictures and questions at once while memory is short."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from vlm_perception.models.base import Model, ModelOutOfMemoryError
from vlm_perception.questions import Answer, Question

FULL_AGAIN = 30.0
"""So long [s] after memory was short last, everything is asked at once again."""
OUT_OF_MEMORY = (ModelOutOfMemoryError, MemoryError)


class Portions:
    """Asks `model`, in halves of what it had no memory for; `noticed` hears of each such failure.

    What counts is how many pairs of a picture and a question there are at once. When there is no memory even for a
    single one, the error is raised.
    """

    def __init__(self, model: Model, noticed: Callable[[Exception], None]) -> None:
        self._model = model
        self._noticed = noticed
        self._most: float = math.inf
        self._short = -math.inf

    def answer_batch(self, images: Sequence[np.ndarray], questions: Sequence[Question]) -> list[list[Answer]]:
        """Answer all `questions` about every image, as `Model.answer_batch` does."""
        if time.monotonic() - self._short > FULL_AGAIN:
            self._most = math.inf
        pairs = len(images) * len(questions)
        if pairs <= self._most:
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
        # Out of the handler, where the exception no longer holds what has to be freed.
        if len(images) > 1:
            step = max(1, int(self._most // len(questions)))
            portions = [images[start : start + step] for start in range(0, len(images), step)]
            return [answers for portion in portions for answers in self.answer_batch(portion, questions)]
        step = int(self._most)
        parts = [questions[start : start + step] for start in range(0, len(questions), step)]
        return [[answer for part in parts for answer in self.answer_batch(images, part)[0]]]
