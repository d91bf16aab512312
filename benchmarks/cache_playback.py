"""Recorded patrols, played back through the answer cache and through caches that compare images by other measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from cache_recording import LABEL, WORDS, WORDS_EVERY, Look
from patrol import RATE

from vlm_perception.perception.answer_cache import AnswerCache, CacheSettings
from vlm_perception.perception.smoothing import LabelSmoother, SmoothingSettings
from vlm_perception.simulation import truth

THRESHOLD = 48
"""The threshold recommended for a robot that patrols. `--choose` found it in other rooms than those of the tables."""


class Mean(AnswerCache):
    """Cache that compares the mean difference of the thumbnails."""

    NORM = cv2.NORM_L1


class DifferenceHash(AnswerCache):
    """Cache that compares dHash: whether each of 8 x 8 cells is brighter than its neighbour."""

    NORM = cv2.NORM_L1

    def _thumbnail(self, image: np.ndarray) -> np.ndarray:
        cells = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
        return (cells[:, 1:] > cells[:, :-1]).astype(np.uint8)


class FrequencyHash(AnswerCache):
    """Cache that compares pHash: whether each of the 8 x 8 lowest frequencies is above their median."""

    NORM = cv2.NORM_L1

    def _thumbnail(self, image: np.ndarray) -> np.ndarray:
        cells = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
        low = cv2.dct(cells.astype(np.float32))[:8, :8]
        return (low > np.median(low)).astype(np.uint8)


OTHERS: dict[str, tuple[type[AnswerCache], Sequence[float]]] = {
    "mean difference": (Mean, [16 * 12 * 3 * mean for mean in (2, 3, 4, 6)]),
    "dHash": (DifferenceHash, (2, 4, 6, 8)),
    "pHash": (FrequencyHash, (2, 4, 6, 8)),
}


class Figures(NamedTuple):
    """Shares from 0 to 1, as cache.py explains them; `shares` are the hits in each phase."""

    hits: float
    shares: dict[str, float]
    false: float
    wrong: float
    wrong_uncached: float
    smoothed: float
    smoothed_uncached: float


def play(streams: Sequence[Sequence[Look]], kind: type[AnswerCache], settings: CacheSettings) -> Figures:
    """Play the patrols back through a cache of this `kind`."""
    seen: list[tuple[str, bool, bool]] = []
    wrong = []
    for stream in streams:
        cache = kind(settings)
        smoothers = [LabelSmoother(truth.LABELS, SmoothingSettings()) for _ in range(2)]
        for look in stream:
            found = cache.find(LABEL, look.image, look.at)
            if found is None:
                cache.keep(LABEL, look.image, look.label, look.at)
            answers = (found or look.label, look.label)
            stamp = round(look.at * 1e9)
            labels = [
                smoother.update(stamp, answer.probabilities).label
                for smoother, answer in zip(smoothers, answers, strict=True)
            ]
            seen.append((look.phase, found is not None, answers[0].value != look.label.value))
            wrong.append([answer.value != look.truth for answer in answers] + [label != look.truth for label in labels])
    rates = np.mean(wrong, axis=0)
    hits = [false for _, hit, false in seen if hit]
    return Figures(
        len(hits) / len(seen),
        {phase: share_of([hit for p, hit, _ in seen if p == phase]) for phase in ("standing", "driving", "turning")},
        share_of(hits),
        *(float(rates[column]) for column in (0, 1, 2, 3)),
    )


def play_words(streams: Sequence[Sequence[Look]]) -> tuple[float, float, float]:
    """Return three shares of the descriptions.

    The first is how many are earlier ones. The second is how many of these differ from the model's own description of
    the image. The third is how often the descriptions of two images from the same place differ.
    """
    hits, false, same_place = [], [], []
    for stream in streams:
        cache = AnswerCache(CacheSettings(THRESHOLD, refresh=2.5 * WORDS_EVERY / RATE))
        for look in stream:
            if look.words and look.again:
                found = cache.find(WORDS, look.image, look.at)
                if found is None:
                    cache.keep(WORDS, look.image, look.words, look.at)
                else:
                    false.append(found.value != look.words.value)
                hits.append(found is not None)
                same_place.append(look.again.value != look.words.value)
    return share_of(hits), share_of(false), share_of(same_place)


def share_of(values: Sequence[bool]) -> float:
    """Return the share of `values` that are true; 0 without any."""
    return sum(values) / len(values) if values else 0.0
