"""The classifier with a model that takes longer, for the evaluation: `slow_classifier SECONDS --ros-args ...`.

The time passes between the image and the answer, and the model is busy meanwhile, as a large one is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np

from vlm_perception.models.base import Model
from vlm_perception.nodes.classifier import Classifier, load_beside_others
from vlm_perception.nodes.run import run
from vlm_perception.questions import Answer, Question


class Slow:
    """The `Model` that is given, but every call takes `seconds` longer."""

    def __init__(self, model: Model, seconds: float) -> None:
        self.name, self.scope = model.name, model.scope
        self._model = model
        self._seconds = seconds

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[Answer]:
        time.sleep(self._seconds)
        return self._model.answer(image, questions)

    def answer_batch(self, images: Sequence[np.ndarray], questions: Sequence[Question]) -> list[list[Answer]]:
        time.sleep(self._seconds)
        return self._model.answer_batch(images, questions)

    def describe_self(self) -> dict[str, str]:
        return self._model.describe_self()


def main() -> int:
    seconds = float(sys.argv[1])
    return run(lambda: Classifier(lambda *arguments: Slow(load_beside_others(*arguments), seconds)))


if __name__ == "__main__":
    sys.exit(main())
