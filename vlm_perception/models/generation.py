"""Greedy text: the loop of models that run token by token, and the text up to its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_perception.models.usage import Meter


@dataclass(frozen=True)
class Generation:
    """A generated `text`: the geometric mean of its tokens' probabilities, their number, the time of the first [s]."""

    text: str
    confidence: float
    tokens: int
    first_token: float


def generate_greedily(
    step: Callable[[Tensor | None], Tensor], tokenizer: Any, ends: Collection[int], max_new_tokens: int, meter: Meter
) -> list[Generation]:
    """Return the most probable continuation of every row, of at most `max_new_tokens` tokens, up to one of `ends`.

    `step` is given the last tokens (rows,), None at first, and returns the logits of the next ones (rows, vocabulary).
    """
    steps: list[tuple[list[int], list[float]]] = []
    first_token = 0.0
    last: Tensor | None = None
    while True:
        log_p, last = step(last).float().log_softmax(-1).max(-1)
        steps.append((last.tolist(), log_p.tolist()))
        first_token = first_token or meter.now()
        rows = range(len(last))
        ended = [any(tokens[row] in ends for tokens, _ in steps) for row in rows]
        if all(ended) or len(steps) > max_new_tokens:
            break
    return [
        until_end(tokenizer, [t[row] for t, _ in steps], [p[row] for _, p in steps], ends, first_token) for row in rows
    ]


def until_end(
    tokenizer: Any, tokens: Sequence[int], log_p: Sequence[float], ends: Collection[int], first_token: float
) -> Generation:
    """Return the text of greedy steps, from each step's token and log-probability, up to one of `ends`.

    The last step, an end or one too many, counts only as the probability of ending there.
    """
    steps = next((n for n, token in enumerate(tokens) if token in ends), len(tokens) - 1) + 1
    text = tokenizer.decode(tokens[: steps - 1], skip_special_tokens=True).strip()
    return Generation(text, math.exp(sum(log_p[:steps]) / steps), steps - 1, first_token)


class StepTimes(list[float]):
    """A stopping criterion of the stock `generate` that never stops, and notes the end of each step [s]."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.append(self._meter.now())
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
