"""From the model's answers about a camera's frames to outputs: cache, region of motion, smoothing. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from vlm_perception.perception.answer_cache import AnswerCache
from vlm_perception.perception.frame import Frame
from vlm_perception.perception.outputs import Description, Label
from vlm_perception.perception.region import Motion
from vlm_perception.perception.settings import Settings
from vlm_perception.perception.smoothing import LabelSmoother
from vlm_perception.questions import Answer


class Pipeline:
    """Turns one camera's answers into outputs. `cache` holds answers to recurring questions; `counts` are by kind."""

    def __init__(self, settings: Settings) -> None:
        self.cache = AnswerCache(settings.cache)
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._smoother = LabelSmoother(settings.label.options, settings.smoothing)
        self._motion = Motion()

    def adopt(self, settings: Settings) -> None:
        """Use `settings` from now on; another vocabulary, prompt or smoothing begins anew."""
        before, self._settings = self._settings, settings
        if (settings.label.question, settings.smoothing) != (before.label.question, before.smoothing):
            self._smoother = LabelSmoother(settings.label.options, settings.smoothing)
        self.cache.settings = settings.cache

    def clear(self) -> None:
        """Forget everything that was seen."""
        self._smoother.reset()
        self._motion.clear()
        self.cache.clear()

    def focused(self, frame: Frame) -> Frame:
        """Return `frame` with the region to label: where something moves, if `follow_motion` is set."""
        if not self._settings.label.follow_motion:
            self._motion.clear()
            return frame
        region = self._motion.region(frame.full_image)
        self.counts["regions"] += region is not None
        return replace(frame, region=region)

    def output(self, frame: Frame, answer: Answer) -> Label | Description:
        """Take in the `answer` to a recurring question; return what is published of it."""
        if not answer.options:
            self.counts["descriptions"] += 1
            return Description(frame, answer)
        self.counts["labels"] += 1
        return Label(frame, answer, self._smoother.update(frame.stamp, answer.probabilities))
