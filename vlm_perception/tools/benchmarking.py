"""Measurement of one model in one precision at one resolution: every kind of question, beside the baseline.

It runs in a process of its own. So the peaks of memory are those of this model, and a model that does not fit ends only
this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vlm_perception.models.loader import load_first
from vlm_perception.models.options import DTYPES, QUANTIZATIONS, LoadOptions
from vlm_perception.questions import Choice, ClosedQuestion, Question, Score, Text, YesNo
from vlm_perception.simulation.truth import LABELS
from vlm_perception.tools.power import Draw, PowerMeter
from vlm_perception.training.prompts import DESCRIPTION_PROMPT, LABEL_PROMPT, THERE_PROMPT

QUESTIONS: dict[str, Question] = {
    "choice": Choice(LABEL_PROMPT, LABELS),
    "yes_no": YesNo(THERE_PROMPT.format(target="red ball")),
    "score": Score("how near is the nearest thing?", ("far", "near", "very near")),
    "text": Text(DESCRIPTION_PROMPT, max_new_tokens=60),
}
TOGETHER = "together"
"""Name of the closed questions in one call, as the classifier asks them."""
OURS, BASELINE = "ours", "baseline"
WARM_UP = 2
"""Rounds before the first that counts."""
PRECISIONS = (*DTYPES, *QUANTIZATIONS[1:])


@dataclass(frozen=True)
class Setup:
    """A model to measure. `precision` is a dtype or a quantization; `image_size` [px] is 0 for the model's own."""

    model: str
    precision: str
    image_size: int
    device: str = "auto"

    def options(self) -> LoadOptions:
        """Return the options for the loader."""
        options = LoadOptions(device=self.device, image_size=self.image_size)
        if self.precision in DTYPES:
            return replace(options, dtype=self.precision)
        return replace(options, quantization=self.precision)

    def __str__(self) -> str:
        size = f" at {self.image_size} px" if self.image_size else ""
        return f"{self.model}, {self.precision}{size}"


@dataclass
class Samples:
    """Measurements of one way of answering, for each call.

    `seconds` are the times of the calls, `first` those until the first token, `rates` the tokens per second after it.
    The answers about each image are there too, with None for one that is no option. The peaks of memory [bytes] are
    those of the process and of the GPU, 0 without one. `problem` says why the question could not be asked.
    """

    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    said: dict[int, list[str | None]] = field(default_factory=dict)
    host_peak: int = 0
    device_peak: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Case:
    """A kind of question and a way of answering it."""

    question: str
    way: str


@dataclass(frozen=True)
class Measured:
    """Measurements of a setup: the model's `facts`, the seconds to load it, the samples of each case, the power."""

    setup: Setup
    facts: dict[str, str]
    load_seconds: float
    samples: dict[Case, Samples]
    draw: Draw


@dataclass(frozen=True)
class Answered:
    """Result of one call: the answers, the seconds until the first token, the tokens per second after it or 0."""

    said: list[str | None]
    first: float
    rate: float


def asked(kinds: Sequence[str]) -> dict[str, list[Question]]:
    """Return the questions of each call: one of every kind, and several closed ones together."""
    calls = {kind: [QUESTIONS[kind]] for kind in kinds}
    closed = [QUESTIONS[kind] for kind in kinds if isinstance(QUESTIONS[kind], ClosedQuestion)]
    return calls | ({TOGETHER: closed} if len(closed) > 1 else {})


def measure(
    send: Callable[[Any], None], setup: Setup, kinds: Sequence[str], images: Sequence[np.ndarray], rounds: int
) -> None:
    """Send the number of finished rounds after each round, and at the end the `Measured`.

    Every round is about another image, and all cases take turns in it. Raises ModelError if the model cannot be loaded.
    """
    from vlm_perception.tools.baseline import baseline_of  # here, so that the command's --help need not import torch

    started = time.perf_counter()
    model = load_first(setup.model, setup.options())
    load_seconds = time.perf_counter() - started
    send(0)
    ways: dict[str, Callable[[np.ndarray, list[Question]], Answered]] = {
        OURS: lambda image, questions: _ours(model, image, questions)
    }
    if baseline := baseline_of(model):
        ways[BASELINE] = lambda image, questions: _baseline(baseline, image, questions)
    device = getattr(model, "_device", None)
    gpu = device if device is not None and device.type == "cuda" else None
    calls = {Case(name, way): questions for name, questions in asked(kinds).items() for way in ways}
    samples = {case: Samples() for case in calls}
    for number in range(-WARM_UP, 0):
        _round(calls, ways, images, number, {case: Samples() for case in calls}, samples, gpu)
    with PowerMeter(gpu.index or 0 if gpu else 0) as power:
        for number in range(rounds):
            _round(calls, ways, images, number, samples, samples, gpu)
            send(number + 1)
    send(Measured(setup, model.describe_self(), load_seconds, samples, power.draw))


def _round(
    calls: dict[Case, list[Question]],
    ways: dict[str, Callable[[np.ndarray, list[Question]], Answered]],
    images: Sequence[np.ndarray],
    number: int,
    samples: dict[Case, Samples],
    problems: dict[Case, Samples],
    gpu: Any,
) -> None:
    """Run every case once about the same image, except those that have failed before."""
    place = number % len(images)
    for case, questions in calls.items():
        if problems[case].problem:
            continue
        image = images[
            place
        ].copy()  # a new image for each call: the model must not use what it has kept of the last one
        _reset_peaks(gpu)
        started = time.perf_counter()
        try:
            answered = ways[case.way](image, questions)
        except Exception as error:  # go on with the other cases
            problems[case].problem = " ".join(str(error).split()) or type(error).__name__
            continue
        seconds = time.perf_counter() - started
        found = samples[case]
        found.seconds.append(seconds)
        found.first.append(answered.first)
        if answered.rate:
            found.rates.append(answered.rate)
        found.said[place] = answered.said
        host, device = _peaks(gpu)
        found.host_peak, found.device_peak = max(found.host_peak, host), max(found.device_peak, device)


def _ours(model: Any, image: np.ndarray, questions: list[Question]) -> Answered:
    answers = model.answer(image, questions)
    usage = answers[0].usage
    rate = usage.tokens_per_second if usage else 0.0
    return Answered([answer.value for answer in answers], usage.time_to_first_token if usage else 0.0, rate)


def _baseline(baseline: Any, image: np.ndarray, questions: list[Question]) -> Answered:
    """Ask one question after the other: `generate` takes only one."""
    started = time.perf_counter()
    said = [baseline.ask(image, question) for question in questions]
    first, rest, rate = said[0], time.perf_counter() - started - said[0].time_to_first_token, 0.0
    if isinstance(question := questions[0], Text) and rest > 0:
        ended = first.tokens < question.max_new_tokens
        rate = max(0, first.tokens - ended - 1) / rest  # as in `Usage`, the end does not count
    return Answered([one.words for one in said], first.time_to_first_token, rate)


def _reset_peaks(gpu: Any) -> None:
    import torch

    from vlm_perception.models.usage import reset_host_peak

    reset_host_peak()
    if gpu is not None:
        torch.cuda.reset_peak_memory_stats(gpu)


def _peaks(gpu: Any) -> tuple[int, int]:
    import torch

    from vlm_perception.models.usage import host_peak

    return host_peak(), torch.cuda.max_memory_allocated(gpu) if gpu is not None else 0
