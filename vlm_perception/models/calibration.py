"""Calibration: from an option's log-likelihood to a probability that can be trusted.

There are two corrections, each by type of question. The *temperature* divides the log-likelihoods, so that answers with
a confidence of 80 % are right in 80 % of the cases (Guo et al., On Calibration of Modern Neural Networks, 2017). The
*empty image* removes what the model says without looking: a share of the log-likelihoods that the same options get for
a grey image is subtracted (Zhao et al., Calibrate Before Use, 2021, with an image in place of a text). It helps where a
model prefers one word for any image. It does harm where "nothing" is a true answer about a grey image. So measure
before you use it: `vlm_perception calibrate`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlm_perception.models.base import ModelError
from vlm_perception.models.folder import read_json
from vlm_perception.questions import (
    Answer,
    Choice,
    ClosedQuestion,
    Score,
    YesNo,
    answer_from_log_likelihoods,
)

TYPES: dict[type[ClosedQuestion], str] = {Choice: "choice", YesNo: "yes_no", Score: "score"}
FILE = "decision.json"
IN_FILE = {"choice": "choice", "yes_no": "noul", "score": "score"}
"""Names of the types in that file, as transformers has them."""
EMPTY_IMAGE = np.full((224, 224, 3), 128, np.uint8)
"""A grey RGB image, which shows nothing."""
EMPTY_IMAGE.flags.writeable = False


@dataclass(frozen=True)
class Calibration:
    """How log-likelihoods become probabilities.

    `temperatures` are by type of question ("choice", "yes_no", "score"), 1 by default; more than 1 makes the model less
    sure. `empty_picture` is the share, 0 to 1, of the empty image's log-likelihoods that is subtracted, by type or one
    number for all types; 0, the default, does not look at an empty image.
    """

    temperatures: Mapping[str, float] = field(default_factory=dict)
    empty_picture: Mapping[str, float] | float = field(default_factory=dict)

    def __post_init__(self) -> None:
        shares = self.empty_picture
        shares = shares if isinstance(shares, Mapping) else dict.fromkeys(TYPES.values(), shares)
        for what, numbers in (("a temperature", self.temperatures), ("empty_picture", shares)):
            for kind in numbers:
                if kind not in TYPES.values():
                    raise ValueError(f"{what} is given for {kind!r}, expected one of {sorted(TYPES.values())}")
        for kind, temperature in self.temperatures.items():
            if not (_is_number(temperature) and temperature > 0):
                raise ValueError(f"the temperature of {kind!r} is {temperature!r}, expected a number above 0")
        for kind, share in shares.items():
            if not (_is_number(share) and 0 <= share <= 1):
                raise ValueError(f"empty_picture of {kind!r} is {share!r}, expected a number from 0 to 1")

    @classmethod
    def from_folder(cls, folder: Path) -> Calibration:
        """Read `decision.json` beside the weights, as transformers' DecisionConfig writes it; the default without one.

        Its `temperature` is by type (choice, score, and noul for yes or no). `empty_picture`, also by type, is our
        addition, which transformers ignores. Raises ModelError when the file cannot be used.
        """
        path = folder / FILE
        if not path.is_file():
            return cls()
        content = _read(path)
        ours = {name: kind for kind, name in IN_FILE.items()}
        numbers = {}
        for key in ("temperature", "empty_picture"):
            by_type = content.get(key, {})
            if not isinstance(by_type, dict) or not by_type.keys() <= ours.keys():
                raise ModelError(
                    f"{path}: {key} is {by_type!r:.200}, expected a number for each of some of {', '.join(ours)} "
                    "(noul is yes or no)"
                )
            numbers[key] = {ours[name]: number for name, number in by_type.items()}
        try:
            return cls(numbers["temperature"], numbers["empty_picture"])
        except ValueError as error:
            raise ModelError(f"{path}: {error}") from None

    def save(self, folder: Path) -> Path:
        """Write `decision.json` into `folder` and return its path; other content of the file stays.

        In the folder of a chat model, this file also says that closed questions are answered by letters, see
        `decision.py`. Raises ModelError when an existing file cannot be read.
        """
        path = folder / FILE
        content = _read(path) if path.is_file() else {}
        shares = {kind: self.share(kind) for kind in IN_FILE}
        content["temperature"] = {IN_FILE[kind]: number for kind, number in self.temperatures.items()}
        content["empty_picture"] = {IN_FILE[kind]: share for kind, share in shares.items() if share}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return path

    def needs_empty_image(self, question: ClosedQuestion) -> bool:
        """Whether `answer` needs the log-likelihoods for an empty image."""
        return self.share(TYPES[type(question)]) > 0

    def answer(self, question: ClosedQuestion, scores: Sequence[float], empty: Sequence[float] | None) -> Answer:
        """Return the answer of these log-likelihoods, given those for an empty image. ValueError: not finite."""
        kind = TYPES[type(question)]
        if empty is not None:
            scores = [score - self.share(kind) * prior for score, prior in zip(scores, empty, strict=True)]
        temperature = self.temperatures.get(kind, 1.0)
        return answer_from_log_likelihoods(question, [score / temperature for score in scores])

    def share(self, kind: str) -> float:
        """Return the share of the empty image for a type of question."""
        shares = self.empty_picture
        return shares.get(kind, 0.0) if isinstance(shares, Mapping) else shares


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}, expected an object")
    return content
