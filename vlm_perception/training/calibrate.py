"""Quality of a model's probabilities, and calibrations that improve it.

The input is the answers of the uncalibrated model about rendered rooms and about an empty image. The logarithms of its
probabilities are the log-likelihoods up to a constant, which does not change a softmax. Calibrations are fitted on
rooms of `CALIBRATION_SEEDS` and judged on rooms of `TEST_SEEDS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from vlm_perception.models.base import Model
from vlm_perception.models.calibration import EMPTY_IMAGE, TYPES, Calibration
from vlm_perception.questions import Choice, ClosedQuestion, YesNo
from vlm_perception.simulation import truth
from vlm_perception.training.figures import LabelledImage, frames, targets
from vlm_perception.training.prompts import LABEL_PROMPT, THERE_PROMPT, WAY_PROMPT, WHERE_PROMPT

BINS = 15
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the empty image among which `fit` chooses."""
TEMPERATURES = (0.05, 20.0)
"""Lowest and highest temperature that `fit_temperature` returns."""
LEAST = 1e-300
"""Value of a probability that the model rounded to 0."""


@dataclass(frozen=True, eq=False)
class ScoredQuestions:
    """Questions of one sort, N of them with K options.

    `type` as in `Calibration`; `scores` (N, K) and `empty` (N, K), the log-likelihoods up to a constant for the image
    and for the empty one, float64; `right` (N,), the index of the right option.
    """

    type: str
    scores: np.ndarray
    empty: np.ndarray
    right: np.ndarray

    def calibrated(self, share: float) -> np.ndarray:
        """Return the log-likelihoods less this share of those of the empty image, (N, K)."""
        return self.scores - share * self.empty

    def quality(self, share: float = 0.0, temperature: float = 1.0) -> Quality:
        """Judge the probabilities with this share of the empty image and this temperature."""
        return quality(softmax(self.calibrated(share) / temperature), self.right)


@dataclass(frozen=True)
class Quality:
    """The share of right answers, the mean of -log P(right answer) [nats] and the expected calibration error."""

    accuracy: float
    nll: float
    ece: float


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return the probabilities of log-likelihoods `scores`, along the last axis."""
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def quality(probabilities: np.ndarray, right: np.ndarray) -> Quality:
    """Judge `probabilities` (N, K) by the index of the `right` option (N,).

    The expected calibration error is the mean distance between confidence and accuracy over `BINS` bins of equally
    many answers, sorted by confidence: most answers are nearly certain, and bins of equal width would leave all but
    the last one nearly empty.
    """
    confidence, hit = probabilities.max(-1), probabilities.argmax(-1) == right
    bins = np.array_split(np.argsort(confidence, kind="stable"), BINS)
    gaps = [len(one) * abs(confidence[one].mean() - hit[one].mean()) for one in bins if len(one)]
    likelihood = np.maximum(probabilities[np.arange(len(right)), right], LEAST)
    return Quality(float(hit.mean()), float(-np.log(likelihood).mean()), float(sum(gaps) / len(right)))


def by_type(asked: Mapping[str, ScoredQuestions]) -> dict[str, list[ScoredQuestions]]:
    """Return the sorts of question of each type."""
    types = dict.fromkeys(one.type for one in asked.values())
    return {kind: [one for one in asked.values() if one.type == kind] for kind in types}


def fit_temperature(asked: Sequence[ScoredQuestions], share: float = 0.0) -> float:
    """Return the temperature with the lowest NLL over all sorts of questions; each sort has the same weight.

    In 1 / temperature the NLL is convex; its slope is the mean of (expected - right) log-likelihood.
    """
    low, high = (math.log(1 / temperature) for temperature in reversed(TEMPERATURES))
    for _ in range(50):
        middle = (low + high) / 2
        slope = 0.0
        for one in asked:
            scores = one.calibrated(share)
            expected = (softmax(scores * math.exp(middle)) * scores).sum(-1)
            slope += float((expected - scores[np.arange(len(one.right)), one.right]).mean())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp(-low)


def fit(asked: Mapping[str, ScoredQuestions], shares: Sequence[float] = SHARES) -> Calibration:
    """Return the share of the empty image and the temperature with the lowest NLL, for each type of question."""
    temperatures, best = {}, {}
    for kind, alike in by_type(asked).items():
        fitted = {share: fit_temperature(alike, share) for share in shares}
        nll = {share: _mean(alike, share, fitted[share]).nll for share in shares}
        best[kind] = min(shares, key=nll.__getitem__)
        temperatures[kind] = round(fitted[best[kind]], 3)
    return Calibration(temperatures, best)


def keep_what_helps(calibration: Calibration, judged: Mapping[str, ScoredQuestions]) -> Calibration:
    """Return `calibration` without the types of question whose NLL or calibration error does not fall in `judged`."""
    temperatures, shares = {}, {}
    for kind, alike in by_type(judged).items():
        temperature, share = calibration.temperatures[kind], calibration.share(kind)
        before, after = _mean(alike, 0.0, 1.0), _mean(alike, share, temperature)
        if after.nll < before.nll and after.ece < before.ece:
            temperatures[kind], shares[kind] = temperature, share
    return Calibration(temperatures, shares)


def _mean(asked: Sequence[ScoredQuestions], share: float, temperature: float) -> Quality:
    found = [one.quality(share, temperature) for one in asked]
    return Quality(*(float(np.mean([getattr(q, name) for q in found])) for name in ("accuracy", "nll", "ece")))


def collect(model: Model, seeds: range) -> dict[str, ScoredQuestions]:
    """Ask an uncalibrated `model` about the images of every room in `seeds`; return the answers by sort of question."""
    found: dict[str, list[tuple[list[float], list[float], int]]] = {}
    types: dict[str, str] = {}
    empty: dict[ClosedQuestion, list[float]] = {}
    for seed in tqdm(seeds, f"rooms from {seeds[0]} on", unit="room", disable=None):
        for frame in frames(seed):
            asked = _questions(frame, seed)
            questions = [question for _, question, _ in asked]
            new = [question for question in questions if question not in empty]
            for question, answer in zip(new, model.answer(EMPTY_IMAGE, new), strict=True):
                empty[question] = _logarithms(answer.probabilities)
            for (sort, question, right), answer in zip(asked, model.answer(frame.image, questions), strict=True):
                found.setdefault(sort, []).append((_logarithms(answer.probabilities), empty[question], right))
                types[sort] = TYPES[type(question)]
    return {
        sort: ScoredQuestions(types[sort], *(np.array(column) for column in zip(*rows, strict=True)))
        for sort, rows in found.items()
    }


def _questions(frame: LabelledImage, seed: int) -> list[tuple[str, ClosedQuestion, int]]:
    """Return the questions about `frame`: each one's sort, the question, and the index of the right option."""
    where = {item.name: item.where for item in frame.seen}
    asked: list[tuple[str, ClosedQuestion, int]] = [
        ("scene label", Choice(LABEL_PROMPT, truth.LABELS), truth.LABELS.index(frame.label)),
        ("clear way", Choice(WAY_PROMPT, truth.WAYS), truth.WAYS.index(frame.way)),
    ]
    for name in targets(frame, seed):
        right = where.get(name, "no")
        asked += [
            ("target", Choice(WHERE_PROMPT.format(target=name), truth.WHERE), truth.WHERE.index(right)),
            ("yes or no", YesNo(THERE_PROMPT.format(target=name)), int(right == "no")),
        ]
    return asked


def _logarithms(probabilities: Sequence[float]) -> list[float]:
    return [math.log(max(probability, LEAST)) for probability in probabilities]


def table(fitted_on: Mapping[str, ScoredQuestions], judged: Mapping[str, ScoredQuestions]) -> str:
    """Return as Markdown the quality with every share of the empty image, before and after the fitted temperature."""
    lines = [
        "| question | of | empty image | temperature | right | NLL before, after | ECE before, after |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    temperatures = {
        (kind, share): fit_temperature(alike, share) for kind, alike in by_type(fitted_on).items() for share in SHARES
    }
    for sort, one in judged.items():
        for share in SHARES:
            temperature = temperatures[one.type, share]
            before, after = one.quality(share), one.quality(share, temperature)
            lines.append(
                f"| {sort} | {len(one.right)} | {share:g} | {temperature:.2f} | {before.accuracy:.1%} "
                f"| {before.nll:.3f}, {after.nll:.3f} | {before.ece:.3f}, {after.ece:.3f} |"
            )
    return "\n".join(lines)
