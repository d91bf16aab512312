"""The interface of every model, and the errors that it raises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vlm_perception.questions import Answer, Question

if TYPE_CHECKING:
    from vlm_perception.models.scope import Scope


class ModelError(Exception):
    """A model cannot be loaded or cannot answer; the message says what to do about it."""


class ModelOutOfMemoryError(ModelError):
    """The device had too little memory for this call; a later or smaller one may succeed."""


class Model(Protocol):
    """Answers typed questions about images. Not thread-safe: one thread loads and uses it."""

    name: str
    """Short name for messages and logs."""
    scope: Scope | None
    """What the model was taught, where that is a closed list; else None."""

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[Answer]:
        """Answer all `questions` about one image, in the order of the questions.

        `image` is RGB, uint8, shape (height, width, 3). The image is encoded once for all questions; an image
        that is read-only is not encoded again when the next call is about the same array.
        Raises ValueError for a wrong image or a question that this model cannot be asked, ModelError when the
        model fails, ModelOutOfMemoryError when memory was short.
        """
        ...

    def answer_batch(self, images: Sequence[np.ndarray], questions: Sequence[Question]) -> list[list[Answer]]:
        """Answer all `questions` about every image; one list of answers for each image, as `answer` gives it.

        Raises what `answer` raises. Memory may be short for all images and enough for some of them.
        """
        ...

    def describe_self(self) -> dict[str, str]:
        """Return facts for diagnostics, as words: folder, family, device, dtype, parameters, memory."""
        ...


def check_image(image: np.ndarray) -> None:
    """Raise ValueError unless `image` is RGB, uint8, of shape (height, width, 3) with at least one pixel."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"the image is {what}, expected RGB uint8 of shape (height, width, 3)")
    if 0 in image.shape:
        raise ValueError(f"the image has shape {image.shape}, expected at least one pixel")
