"""Answers about a scene that has not changed are used again. No ROS.

Two images show the same scene when no part of them differs: both are shrunk to `SIZE` cells, which averages the
camera's noise away, and the largest difference of any cell in any colour decides. How large it may be depends on how
sure the model was, by its log-odds: what it is sure of takes a larger change to become another answer than what it is
in two minds about. The usual perceptual hashes ([pHash](https://www.phash.org), dHash) are of grey values and of the
whole image: they see neither another colour nor something small. benchmarks/cache.md has all of them, side by side.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import cv2
import numpy as np

from vlm_perception.parameters import parameter
from vlm_perception.questions import Answer, Question

SIZE = (16, 12)
"""Width and height of a thumbnail, in cells."""
ROWS = 20
"""Rows of pixels per cell: more make it slower, and hardly less noisy."""
SURE = 0.99
"""The confidence from which on an answer counts as sure."""
QUESTIONS = 4
"""The answers to so many questions are remembered: the label, the description, and two that may come back."""
LEAST_PERIODS = 2.5
"""An answer is good for so many periods of its question at least. The half: images come a little early or late."""


@dataclass(frozen=True)
class CacheSettings:
    """When an answer may be used again.

    For an answer that is less sure than `SURE`, the `threshold` is as much smaller as its log-odds are, and 0 for one
    that is as likely wrong; for free words it is half. The newest `scenes` are remembered for each question, those
    first forgotten that were not met for the longest time. No answer is older than `lifetime` [s]. `refresh` is at
    least `LEAST_PERIODS` of the question.
    """

    threshold: float = parameter(
        0.0,
        "Use an answer again while no part of the image differs by more than this; 0: never",
        unit="grey levels",
        minimum=0.0,
        maximum=255.0,
    )
    refresh: float = parameter(
        2.0,
        "After this time, ask the model again even if the image has not changed",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
    )
    scenes: int = 64
    lifetime: float = 300.0


@dataclass(frozen=True, eq=False)
class Scene:
    """What the model answered about a scene, and when [s]."""

    shape: tuple[int, ...]
    thumbnail: np.ndarray
    answer: Answer
    at: float


class AnswerCache:
    """Remembers answers of one camera. Pure: time comes in [s].

    A question is another one with any other word, option or description in it. `counts` says how often an answer was
    a `hit`, a `miss`, or asked for again though the scene was known (a `refresh`).
    """

    NORM = cv2.NORM_INF
    """How the difference of two thumbnails is measured."""

    def __init__(self, settings: CacheSettings) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self._scenes: dict[Question, list[Scene]] = {}
        """The question that was asked last at the end, and so the scene that was met last."""
        self._asked: dict[Question, float] = {}
        self._seen: tuple[np.ndarray, np.ndarray] | None = None

    def find(self, question: Question, image: np.ndarray, now: float, period: float = 0.0) -> Answer | None:
        """Return the answer to `question` about the scene that `image` shows, with its age; None: ask the model.

        `image` is RGB, uint8, shape (height, width, 3); `period` [s]: how often the question is asked.
        """
        settings = self.settings
        if not settings.threshold:
            return None
        difference, scene = self._nearest(question, image)
        if scene is None or difference > settings.threshold * sureness(scene.answer):
            self.counts["miss"] += 1
            return None
        refresh = max(settings.refresh, LEAST_PERIODS * period)
        if now - scene.at >= settings.lifetime or now - self._asked[question] >= refresh:
            self.counts["refresh"] += 1
            return None
        self.counts["hit"] += 1
        self._scenes[question].remove(scene)
        self._scenes[question].append(scene)
        return replace(scene.answer, usage=None, age=now - scene.at)

    def keep(self, question: Question, image: np.ndarray, answer: Answer, now: float) -> None:
        """Remember the `answer` that the model gave to `question` about `image`, in place of an older one."""
        if not self.settings.threshold:
            return
        difference, older = self._nearest(question, image)
        same = older if difference <= self.settings.threshold else None
        scenes = [scene for scene in self._scenes.pop(question, []) if scene is not same]
        scenes.append(Scene(image.shape, self._thumbnail(image), answer, now))
        self._scenes[question] = scenes[-self.settings.scenes :]
        self._asked[question] = now
        for retired in list(self._scenes)[:-QUESTIONS]:
            del self._scenes[retired], self._asked[retired]

    def metrics(self) -> dict[str, object]:
        """How often answers were used again, for the diagnostics; none while they never are."""
        if not self.settings.threshold:
            return {}
        names = {"hit": "hits", "miss": "misses", "refresh": "forced refreshes"}
        return {f"reuse, {words}": self.counts[name] for name, words in names.items()}

    def clear(self) -> None:
        """Forget all answers."""
        self._scenes.clear()
        self._asked.clear()
        self._seen = None

    def _nearest(self, question: Question, image: np.ndarray) -> tuple[float, Scene | None]:
        """Return the known scene that is most like `image`, None without one, and how much they differ."""
        thumbnail = self._thumbnail(image)
        known = [
            (cv2.norm(scene.thumbnail, thumbnail, self.NORM), scene)
            for scene in self._scenes.get(question, ())
            if scene.shape == image.shape
        ]
        return min(known, key=lambda pair: pair[0], default=(math.inf, None))

    def _thumbnail(self, image: np.ndarray) -> np.ndarray:
        """Return the cells of `image`; keep those of the last image."""
        if self._seen is None or self._seen[0] is not image or image.flags.writeable:
            rows = image[:: max(1, image.shape[0] // (SIZE[1] * ROWS))]
            self._seen = (image, cv2.resize(rows, SIZE, interpolation=cv2.INTER_AREA))
        return self._seen[1]


def sureness(answer: Answer) -> float:
    """Return how sure the model was, by its log-odds: from 0, as likely wrong as right, to 1 at `SURE`.

    It is 0.5 for free words, whose confidence is no choice between two.
    """
    if not answer.options:
        return 0.5
    sure = min(answer.confidence, SURE)
    return math.log(sure / (1 - sure)) / math.log(SURE / (1 - SURE)) if sure > 0.5 else 0.0
