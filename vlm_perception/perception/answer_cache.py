"""A cache of answers about scenes that have not changed. No ROS.

Two images show the same scene when no part of them differs. Both are shrunk to `SIZE` cells, which removes the camera's
noise, and the largest difference of a cell in one colour decides. The limit depends on the log-odds of the answer: a
sure answer changes only with a large change of the scene. The usual perceptual hashes ([pHash](https://www.phash.org),
dHash) use grey values of the whole image, so they miss another colour and small things. benchmarks/cache.md compares
them.
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
"""Rows of pixels per cell that are averaged: more cost time and hardly reduce noise."""
SURE = 0.99
"""Confidence at which an answer counts as sure."""
QUESTIONS = 4
"""Number of questions whose answers are kept: the label, the description, and two that may return."""
LEAST_PERIODS = 2.5
"""Least number of periods of its question for which an answer is used; the half allows for jitter."""


@dataclass(frozen=True)
class CacheSettings:
    """When an answer may be used again.

    The `threshold` is for an answer as sure as `SURE`. It falls with the log-odds of the answer, to 0 for one as
    likely wrong as right, and is half for free words. The `scenes` met last are kept for each question. No answer is
    older than `lifetime` [s]. `refresh` is at least `LEAST_PERIODS` of the question.
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
    """The model's answer about a scene, and its time `at` [s]."""

    shape: tuple[int, ...]
    thumbnail: np.ndarray
    answer: Answer
    at: float


class AnswerCache:
    """Keeps answers of one camera. Pure: time [s] is an argument.

    Questions are equal only if all their words, options and descriptions are. `counts` has the number of each `hit`,
    `miss`, and `refresh` (a known scene about which the model is asked again).
    """

    NORM = cv2.NORM_INF
    """Norm of the difference of two thumbnails."""

    def __init__(self, settings: CacheSettings) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self._scenes: dict[Question, list[Scene]] = {}
        """Scenes by question. The question asked last is at the end, and so is the scene met last."""
        self._asked: dict[Question, float] = {}
        self._seen: tuple[np.ndarray, np.ndarray] | None = None

    def find(self, question: Question, image: np.ndarray, now: float, period: float = 0.0) -> Answer | None:
        """Return a kept answer to `question` about the scene in `image`, with its age; None if the model must be asked.

        `image` is RGB, uint8, shape (height, width, 3); `period` [s] is that of the question.
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
        """Keep the model's `answer` to `question` about `image`, in place of an older one about the same scene."""
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
        """Return how often answers were used again, for diagnostics; empty while the cache is off."""
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
    """Return how sure `answer` is, by its log-odds: from 0, for a confidence of 0.5, to 1 at `SURE`.

    It is 0.5 for free words, whose confidence is not that of a choice.
    """
    if not answer.options:
        return 0.5
    sure = min(answer.confidence, SURE)
    return math.log(sure / (1 - sure)) / math.log(SURE / (1 - SURE)) if sure > 0.5 else 0.0
