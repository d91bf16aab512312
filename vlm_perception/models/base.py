"""What every model can do, whatever its family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vlm_perception.questions import Answer, Question


class ModelError(Exception):
    """A model cannot be loaded or cannot answer; the message says what to do about it."""


class ModelOutOfMemoryError(ModelError):
    """The device had too little memory for this call; a later or smaller one may succeed."""


class Model(Protocol):
    """Answers typed questions about images. Not thread-safe: one thread loads and uses it."""

    name: str
    """Short name for messages and logs."""

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[Answer]:
        """Answer all `questions` about one image, in the order of the questions.

        `image` is RGB, uint8, shape (height, width, 3). The image is encoded once for all
        questions. Raises ValueError for a wrong image and ModelError when the model fails.
        """
        ...

    def describe_self(self) -> dict[str, str]:
        """Facts for diagnostics, as words: folder, family, device, dtype, parameters, memory."""
        ...
