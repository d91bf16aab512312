"""From an option's log-likelihood to a probability that can be trusted.

Two corrections, both off by default. *Temperature* per type of question divides the log-likelihoods, so that what
is said with 80 % is right in 80 % of the cases (Guo et al., On Calibration of Modern Neural Networks, 2017).
The *empty picture* takes out what the model would say without looking: the log-likelihoods that the same options
get for a plain grey picture are subtracted (Zhao et al., Calibrate Before Use, 2021, with a picture in
place of a text).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vlm_perception.questions import (
    Answer,
    Choice,
    ClosedQuestion,
    Score,
    YesNo,
    answer_from_log_likelihoods,
)

TYPES: dict[type[ClosedQuestion], str] = {Choice: "choice", YesNo: "yes_no", Score: "score"}
GREY = 128
"""The level of every channel of the empty picture."""


@dataclass(frozen=True)
class Calibration:
    """How log-likelihoods become probabilities.

    `temperatures` by type of question ("choice", "yes_no", "score"), 1 where none is given; above 1 is less sure.
    `empty_picture` is the share of the empty picture's log-likelihoods that is subtracted, 0 to 1; 0 does not ask.
    """

    temperatures: Mapping[str, float] = field(default_factory=dict)
    empty_picture: float = 0.0

    def __post_init__(self) -> None:
        for kind, temperature in self.temperatures.items():
            if kind not in TYPES.values():
                raise ValueError(f"a temperature is given for {kind!r}, expected one of {sorted(TYPES.values())}")
            if not (math.isfinite(temperature) and temperature > 0):
                raise ValueError(f"the temperature of {kind!r} is {temperature}, expected a number above 0")
        if not 0.0 <= self.empty_picture <= 1.0:
            raise ValueError(f"empty_picture is {self.empty_picture}, expected 0 to 1")

    def answer(self, question: ClosedQuestion, scores: Sequence[float], empty: Sequence[float] | None) -> Answer:
        """Return the answer of these log-likelihoods, given those for an empty picture. ValueError: not finite."""
        temperature = self.temperatures.get(TYPES[type(question)], 1.0)
        if empty is not None:
            scores = [score - self.empty_picture * prior for score, prior in zip(scores, empty, strict=True)]
        return answer_from_log_likelihoods(question, [score / temperature for score in scores])
